-- ARGV: attempt, failed (1 or 0). From now on no other attempt can begin. Answers the verdict, 'stop' where the attempt
-- must not answer.

local run = load()
if not run then return is_erased() and 'stop' or 'continue' end
if not is_open(run) or tonumber(ARGV[4]) ~= run.attempt then return 'stop' end
run.answered, run.failed = true, ARGV[5] == '1' or nil
save(run)
return run.status == 'cancelling' and 'cancel' or 'continue'
