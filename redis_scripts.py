"""The server-side scripts: each checks the run and changes its stream in one atomic step.

Every script takes ``KEYS = [stream, runs]`` and ``ARGV = [ttl_ms, correlation_id, ...]``; a third key, where Redis is a
cluster, is the channel on which the stream's watchers are told that there may be news. The runs hash holds one
JSON record per run, under its correlation_id:

``status``    queued, running, cancelling; or ended: completed, failed, cancelled, timed_out
``agent``     the agent's name; absent in a run that was registered by its writer
``created``   when it was accepted, ms since the epoch; ``ended`` likewise
``claim``     which request may start it, and ``claimed`` since when
``attempt``   the newest attempt, 0 before the first. It is the ms time of the attempt's begin, so that it grows even
              when Redis lost the record of the attempts before
``next``      the sequence number of the newest attempt's next chunk
``from``      the entry after which the newest attempt's entries begin
``terminal``  the entry that ended the run
``lost``      whether Redis lost what the run may have streamed before, so that its followers need a ``reset``
"""

_PRELUDE = """
local stream, runs = KEYS[1], KEYS[2]
local ttl, correlation_id = tonumber(ARGV[1]), ARGV[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function load()
  local record = redis.call('HGET', runs, correlation_id)
  return record and cjson.decode(record) or nil
end

local function save(run)
  redis.call('HSET', runs, correlation_id, cjson.encode(run))
  redis.call('PEXPIRE', runs, ttl)
  redis.call('PEXPIRE', stream, ttl)
  if KEYS[3] then redis.call('SPUBLISH', KEYS[3], '') end
end

local function is_open(run)
  return run.status == 'queued' or run.status == 'running' or run.status == 'cancelling'
end

local function last_id()
  local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)
  return newest[1] and newest[1][1] or '0-0'
end

local function new_run(status)
  return {status = status, created = now, attempt = 0, next = 0, from = last_id()}
end

local function lost_run()
  local run = new_run('running')
  run.lost = true
  return run
end

local function add(run, timestamp, text, event)
  local id
  local attempt = string.format('%.0f', run.attempt)
  if event then
    id = redis.call('XADD', stream, '*', 'text', text, 'sequence', run.next, 'timestamp', timestamp,
      'event', event, 'correlation_id', correlation_id, 'attempt', attempt)
  else
    id = redis.call('XADD', stream, '*', 'text', text, 'sequence', run.next, 'timestamp', timestamp,
      'correlation_id', correlation_id, 'attempt', attempt)
  end
  run.next = run.next + 1
  return id
end

local function reset(run, reason)
  local text = cjson.encode({correlation_id = correlation_id, reason = reason})
  run.next = 0
  run.from = add(run, string.format('%.0f', now), text, 'reset')
  run.next, run.lost = 0, nil
end
"""

# ARGV: agent, claim, claim_ms. Answers 1 when the caller is the one to start the run, else 0.
ACCEPT = (
    _PRELUDE
    + """
local agent, claim, claim_ms = ARGV[3], ARGV[4], tonumber(ARGV[5])
local run = load()
if run then
  local abandoned = run.status == 'queued' and run.attempt == 0 and now - (run.claimed or 0) > claim_ms
  if not (run.claim == claim or abandoned or run.not_started) then
    return 0
  end
  if run.terminal then redis.call('XDEL', stream, run.terminal) end
end

-- A run is trimmed whole or not at all, or a new follower would read the rest of an answer for all of it.
local oldest = now - ttl
local records = redis.call('HGETALL', runs)
for i = 1, #records, 2 do
  local other = cjson.decode(records[i + 1])
  if is_open(other) or other.ended >= now - ttl then
    oldest = math.min(oldest, other.created)
  else
    redis.call('HDEL', runs, records[i])
  end
end
redis.call('XTRIM', stream, 'MINID', string.format('%.0f', oldest))

run = new_run('queued')
run.agent, run.claim, run.claimed = agent, claim, now
save(run)
return 1
"""
)

# ARGV: claim. Forgets a run that could not be started, unless someone else has claimed or started it meanwhile.
WITHDRAW = (
    _PRELUDE
    + """
local run = load()
if run and run.status == 'queued' and run.attempt == 0 and run.claim == ARGV[3] then
  redis.call('HDEL', runs, correlation_id)
end
return 0
"""
)

# ARGV: in_order (1 or 0). Answers {verdict, attempt}; the verdict is 'wait' while in_order forbids to begin.
BEGIN = (
    _PRELUDE
    + """
local run = load() or lost_run()
if not is_open(run) then return {'stop', string.format('%.0f', run.attempt)} end
-- An agent answers a conversation's messages one after another, so its other run that has begun is about to end.
if ARGV[3] == '1' and run.attempt == 0 then
  local records = redis.call('HGETALL', runs)
  for i = 1, #records, 2 do
    local other = cjson.decode(records[i + 1])
    if records[i] ~= correlation_id and is_open(other) and other.attempt > 0 and other.agent == run.agent then
      return {'wait', '0'}
    end
  end
end
local streamed = run.lost or run.next > 0
run.attempt = math.max(run.attempt + 1, now)
if streamed then reset(run, 'attempt') else run.from = last_id() end
run.next = 0
if run.status == 'queued' then run.status = 'running' end
save(run)
return {run.status == 'cancelling' and 'cancel' or 'continue', string.format('%.0f', run.attempt)}
"""
)

# ARGV: attempt, sequence of the first chunk, then (timestamp, text) per chunk, none to keep the run alive.
# A chunk whose sequence number was appended before is skipped, so a repeated call changes nothing.
APPEND = (
    _PRELUDE
    + """
local attempt, sequence = tonumber(ARGV[3]), tonumber(ARGV[4])
local run = load()
if run and (not is_open(run) or attempt < run.attempt) then return 'stop' end
if not run or attempt > run.attempt then
  run = run or lost_run()
  run.attempt, run.next, run.from = attempt, sequence, last_id()
  if run.status == 'queued' then run.status = 'running' end
end
for i = 5, #ARGV, 2 do
  if sequence >= run.next then
    run.next = sequence
    add(run, ARGV[i], ARGV[i + 1])
  end
  sequence = sequence + 1
end
save(run)
return run.status == 'cancelling' and 'cancel' or 'continue'
"""
)

# ARGV: status, event, data, unstarted (1 to act only on a run without an attempt, else 0), compare (1 or 0), then the
# committed answer in chunks. Answers the run's status.
FINISH = (
    _PRELUDE
    + """
local status, event, data, unstarted, compare = ARGV[3], ARGV[4], ARGV[5], ARGV[6] == '1', ARGV[7] == '1'
local run = load() or lost_run()
-- Of a run that was lost nobody knows whether an attempt had begun.
if not is_open(run) or (unstarted and (run.attempt > 0 or run.lost)) then return run.status end

local function streamed()
  local chunks, after = {}, run.from
  repeat
    local page = redis.call('XRANGE', stream, '(' .. after, '+', 'COUNT', 1000)
    for _, entry in ipairs(page) do
      local fields = {}
      for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
      if fields.correlation_id == correlation_id and tonumber(fields.attempt) == run.attempt
        and not fields.event then
        chunks[#chunks + 1] = fields.text
      end
      after = entry[1]
    end
  until #page < 1000
  return table.concat(chunks)
end

if compare and (run.lost or streamed() ~= table.concat(ARGV, '', 8)) then
  local tell = run.lost or run.next > 0
  run.attempt, run.next = math.max(run.attempt + 1, now), 0
  if tell then reset(run, 'repaired') end
  for i = 8, #ARGV do add(run, string.format('%.0f', now), ARGV[i]) end
end
if run.status == 'cancelling' and status == 'completed' then
  status, event, data = 'cancelled', 'cancelled', '[CANCELLED]'
end
run.terminal = add(run, string.format('%.0f', now), data, event)
run.status, run.ended, run.not_started = status, now, (unstarted and status == 'failed') or nil
save(run)
return status
"""
)

# Answers the run's status before the call, or '' for an unknown run.
CANCEL = (
    _PRELUDE
    + """
local known = load()
local run = known or lost_run()
local status = known and known.status or ''
if is_open(run) then
  run.status = 'cancelling'
  save(run)
end
return status
"""
)

# ARGV (with an empty correlation_id): a JSON list of runs {correlation_id, agent, status} and, for one that has ended,
# {event, data, chunks}. Adds those that Redis does not know, so that of many callers one restores.
RESTORE = (
    _PRELUDE
    + """
for _, lost in ipairs(cjson.decode(ARGV[3])) do
  correlation_id = lost.correlation_id
  if not load() then
    local run = lost_run()
    run.status, run.agent = lost.status, lost.agent
    if not is_open(run) then
      run.attempt, run.ended = now, now
      reset(run, 'expired')
      for _, chunk in ipairs(lost.chunks) do add(run, string.format('%.0f', now), chunk) end
      run.terminal = add(run, string.format('%.0f', now), lost.data, lost.event)
    end
    save(run)
  end
end
return 0
"""
)

# Forgets the conversation, unless a run is open. Answers 1 when it is forgotten, else 0.
ERASE = (
    _PRELUDE
    + """
for _, record in ipairs(redis.call('HVALS', runs)) do
  if is_open(cjson.decode(record)) then return 0 end
end
redis.call('DEL', stream, runs)
return 1
"""
)
