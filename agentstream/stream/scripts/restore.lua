-- ARGV (with an empty correlation_id): the erasure that the caller saw before it read the durable state, and a JSON list
-- of runs {correlation_id, agent, created, owner, status} and, for one that has ended, {event, data, chunks}, each chunk a list
-- of its text and, unless it is a message, its event. Adds those that Redis does not know, so that of many callers one
-- restores. Answers {1, how many that have ended it added}, or {0, 0} where the conversation was erased since.

if is_being_erased() or (redis.call('GET', erasure) or '') ~= ARGV[4] then return {0, 0} end
local ended = 0
for _, lost in ipairs(cjson.decode(ARGV[5])) do
  correlation_id = lost.correlation_id
  if not load() and not (lost.created > 0 and lost.created <= erased_since()) then
    local run = lost_run()
    run.status, run.agent, run.owner = lost.status, lost.agent, lost.owner
    if not is_open(run) then
      run.attempt, run.ended = now, now
      reset(run, 'expired')
      ended = ended + 1
      for _, chunk in ipairs(lost.chunks) do add(run, string.format('%.0f', now), chunk[1], chunk[2]) end
      run.terminal = add(run, string.format('%.0f', now), lost.data, lost.event)
    end
    save(run)
  end
end
redis.call('HDEL', runs, '')
return {1, ended}
