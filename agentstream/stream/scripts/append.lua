-- ARGV: attempt, sequence of the first chunk, then (timestamp, text, event) per chunk, none to keep the run alive; the
-- event is empty for a message. A chunk whose sequence number was appended before is skipped, so a repeated call
-- changes nothing.

local attempt, sequence = tonumber(ARGV[4]), tonumber(ARGV[5])
local run = load()
if run and (not is_open(run) or run.answered or attempt < run.attempt) then return 'stop' end
if not run and is_erased() then return 'stop' end
if not run or attempt > run.attempt then
  run = run or lost_run()
  run.attempt, run.next, run.from = attempt, sequence, last_id()
  if run.status == 'queued' then run.status = 'running' end
end
for i = 6, #ARGV, 3 do
  if sequence >= run.next then
    run.next = sequence
    add(run, ARGV[i], ARGV[i + 1], ARGV[i + 2] ~= '' and ARGV[i + 2] or nil)
  end
  sequence = sequence + 1
end
save(run)
return run.status == 'cancelling' and 'cancel' or 'continue'
