-- ARGV: status, event, data, unless (1 to leave alone a run that an attempt has begun, 2 one that was answered, else 0),
-- compare (1 or 0), then the committed answer in chunks. Answers {status, 1 where followers were told of a reset, else
-- 0}: the run's status; 'answered', and nothing is done, where it was left alone for its answer, as it is when its timer
-- fires after it; 'erased' where there is nothing to end any more.

local status, event, data, unstarted, compare = ARGV[4], ARGV[5], ARGV[6], ARGV[7] == '1', ARGV[8] == '1'
local unless_answered = ARGV[7] == '2' or status == 'timed_out'
local run = load()
if not run then
  if is_erased() then return {'erased', 0} end
  -- Nobody knows whether an attempt had begun.
  if unstarted then return {'running', 0} end
  run = lost_run()
end
if not is_open(run) or (unstarted and (run.attempt > 0 or run.lost)) then return {run.status, 0} end
if unless_answered and run.answered and not run.failed then return {'answered', 0} end

local tell = false
if compare and (run.lost or streamed(run) ~= table.concat(ARGV, '', 9)) then
  tell = run.lost or run.next > 0
  run.attempt, run.next = math.max(run.attempt + 1, now), 0
  if tell then reset(run, 'repaired') end
  for i = 9, #ARGV do add(run, string.format('%.0f', now), ARGV[i]) end
end
if run.status == 'cancelling' and status == 'completed' then
  status, event, data = 'cancelled', 'cancelled', '[CANCELLED]'
end
run.terminal = add(run, string.format('%.0f', now), data, event)
run.status, run.ended, run.not_started = status, now, (unstarted and status == 'failed') or nil
save(run)
return {status, tell and 1 or 0}
