-- ARGV: claim. Ends a run that could not be started, unless someone else has claimed it meanwhile. Nobody was told of
-- it, so nobody is told of its end; and should it be started all the same, it does nothing.

local run = load()
if run and run.status == 'queued' and run.attempt == 0 and run.claim == ARGV[4] then
  run.status, run.ended, run.not_started = 'failed', now, true
  save(run)
end
return 0
