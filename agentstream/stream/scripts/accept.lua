-- ARGV: agent, claim, claim_ms, owner or empty. Answers the time when the run was accepted where the caller is the one
-- to start it, 0 where it is not, -1 while the conversation is being erased, and -2 where it is another owner's.

local agent, claim, claim_ms, owner = ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7]
if is_being_erased() then return '-1' end
local known = all_runs()
for _, other in pairs(known) do
  if other.owner and other.owner ~= owner then return '-2' end
end
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
for name, other in pairs(known) do
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
if owner ~= '' then run.owner = owner end
save(run)
return string.format('%.0f', run.created)
