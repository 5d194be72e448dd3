-- ARGV (with an empty correlation_id): how long the erasure is remembered, and for how long the durable runtime may
-- still know the conversation, both in ms. Forgets it, unless a run is open: answers the time of the erasure, or 0.

for _, run in pairs(all_runs()) do
  if is_open(run) then return '0' end
end
redis.call('DEL', stream, runs)
local since = math.max(now, erased_since() + 1)
redis.call('SET', erasure, string.format('%.0f:%.0f', since, now + tonumber(ARGV[5])), 'PX', ARGV[4])
return string.format('%.0f', since)
