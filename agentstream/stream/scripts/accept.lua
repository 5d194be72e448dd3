-- ARGV: agent, claim, claim_ms. Answers the time when the run was accepted where the caller is the one to start it, 0
-- where it is not, and -1 while the conversation is being erased.

local agent, claim, claim_ms = ARGV[4], ARGV[5], tonumber(ARGV[6])
if is_being_erased() then return '-1' end
local run = load()
if run then
  local abandoned = run.status == 'queued' and run.attempt == 0 and now - (run.claimed or 0) > claim_ms
  if not (run.claim == claim or abandoned or run.not_started) then
    return '0'
  end
  if run.terminal then redis.call('XDEL', stream, run.terminal) end
end

-- A run is trimmed whole or not at all, or a new follower would read the rest of an answer for all of it.
local oldest = now - ttl
for name, other in pairs(all_runs()) do
  if is_open(other) or (other.ended or 0) >= now - ttl then
    oldest = math.min(oldest, other.created)
  else
    redis.call('HDEL', runs, name)
  end
end
redis.call('XTRIM', stream, 'MINID', string.format('%.0f', oldest))

run = new_run('queued')
-- After an erasure of the same millisecond too.
run.created = math.max(now, erased_since() + 1)
run.agent, run.claim, run.claimed = agent, claim, now
save(run)
return string.format('%.0f', run.created)
