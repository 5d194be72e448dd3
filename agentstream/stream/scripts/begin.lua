-- ARGV: in_order (1 or 0), the attempt that this one takes the place of or 0 for none.
-- Answers {verdict, attempt, the attempt before it or 0, 1 where followers were told of a reset, else 0}; the verdict is
-- 'wait' while in_order forbids to begin.

local run = load()
if not run then
  if is_erased() then return {'stop', '0', '0', 0} end
  run = lost_run()
end
local replaced = tonumber(ARGV[5])
if not is_open(run) or run.answered or (replaced > 0 and run.attempt > replaced) then
  return {'stop', string.format('%.0f', run.attempt), '0', 0}
end
-- An agent answers a conversation's messages one after another, so its other run that has begun is about to end.
if ARGV[4] == '1' and run.attempt == 0 then
  for name, other in pairs(all_runs()) do
    if name ~= correlation_id and is_open(other) and other.attempt > 0 and other.agent == run.agent then
      return {'wait', '0', '0', 0}
    end
  end
end
local before, streamed_before = run.attempt, run.lost or run.next > 0
run.attempt = math.max(run.attempt + 1, now)
if streamed_before then reset(run, 'attempt') else run.from = last_id() end
run.next = 0
if run.status == 'queued' then run.status = 'running' end
save(run)
return {run.status == 'cancelling' and 'cancel' or 'continue', string.format('%.0f', run.attempt),
  string.format('%.0f', before), streamed_before and 1 or 0}
