-- ARGV: in_order (1 or 0), the attempt that this one takes the place of or 0 for none, the caller's name: a repeated
-- call of one caller begins nothing more.
-- Answers {verdict, attempt, the attempt before it or 0, 1 where followers were told of a reset, else 0}; the verdict is
-- 'wait' while in_order forbids to begin.

local run = load()
if not run then
  if is_erased() then return {'stop', '0', '0', 0} end
  run = lost_run()
end
local function answer(verdict, before, is_reset)
  return {verdict, string.format('%.0f', run.attempt), string.format('%.0f', before), is_reset and 1 or 0}
end
local replaced, caller = tonumber(ARGV[5]), ARGV[6]
local verdict = run.status == 'cancelling' and 'cancel' or 'continue'
if not is_open(run) or run.answered then return answer('stop', 0) end
if run.begun_by == caller then return answer(verdict, 0) end
if replaced > 0 and run.attempt > replaced then return answer('stop', 0) end
-- An agent answers a conversation's messages one after another, so its other run that has begun is about to end.
if ARGV[4] == '1' and run.attempt == 0 then
  for name, other in pairs(all_runs()) do
    if name ~= correlation_id and is_open(other) and other.attempt > 0 and other.agent == run.agent then
      return {'wait', '0', '0', 0}
    end
  end
end
local before, streamed_before = run.attempt, run.lost or run.next > 0
run.attempt, run.begun_by = math.max(run.attempt + 1, now), caller
if streamed_before then reset(run, 'attempt') else run.from = last_id() end
run.next = 0
if run.status == 'queued' then run.status = 'running' end
save(run)
return answer(verdict, before, streamed_before)
