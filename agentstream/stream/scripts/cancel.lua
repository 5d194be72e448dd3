-- ARGV: resend_ms, the caller's name. Answers {the run's status before the call or '' for an unknown run, whether to
-- tell the durable runtime as 1 or 0}: one caller, and another after resend_ms, should the first have failed.

local known = load()
if not known and is_erased() then return {'erased', '0'} end
local run = known or lost_run()
local status = known and known.status or ''
local send = is_open(run) and (run.cancel_sent_by == ARGV[5] or now - (run.cancel_sent or 0) > tonumber(ARGV[4]))
if is_open(run) then
  run.status = 'cancelling'
  if send then run.cancel_sent, run.cancel_sent_by = now, ARGV[5] end
  save(run)
end
return {status, send and '1' or '0'}
