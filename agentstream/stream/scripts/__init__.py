"""The server-side scripts: each checks the run and changes its stream in one atomic step.

Every script takes ``KEYS = [stream, runs, erasure]`` and ``ARGV = [ttl_ms, correlation_id, created, ...]``; a fourth
key, where Redis is a cluster, is the channel on which the stream's watchers are told that there may be news.

``created`` is when the caller knows the run to have been accepted, 0 where it does not. A run that was accepted before
its conversation was erased is dead: where the scripts hold no record of it, they take it for erased, not for lost.

The stream and the runs live and die together: one of them alone is what an eviction left, and is dropped as lost.

The runs hash holds one JSON record per run, under its correlation_id; times are in ms since the epoch:

``status``    queued, running, cancelling; or ended: completed, failed, cancelled, timed_out
``agent``     the agent's name; absent in a run that was registered by its writer
``created``   when it was accepted; ``ended`` likewise
``claim``     which request may start it, and ``claimed`` since when
``attempt``   the newest attempt, 0 before the first. It is the time of the attempt's begin, so that it grows even when
              Redis lost the record of the attempts before
``seen``      when it was last heard of
``next``      the sequence number of the newest attempt's next chunk
``from``      the entry after which the newest attempt's entries begin
``answered``  whether the newest attempt has answered, so that no other may begin; ``failed`` whether by an error
``terminal``  the entry that ended the run
``not_started``  whether it ended without having been started, so that its key may start it
``cancel_sent``  when the durable runtime was last to be told that the run is cancelled
``lost``      whether Redis lost what the run may have streamed before, so that its followers need a ``reset``

Under the empty name the hash has a mark while it lacks the runs that Redis lost before.

The erasure is a string ``<since>:<until>``: what was accepted up to ``since`` is gone, and until ``until`` the durable
runtime may still know it, so that nothing is restored or accepted.
"""

_PRELUDE = """
local stream, runs, erasure = KEYS[1], KEYS[2], KEYS[3]
local ttl, correlation_id, created = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local keys = redis.call('EXISTS', stream, runs)
if keys == 1 then
  redis.call('DEL', stream, runs)
  keys = 0
end

local function read(record)
  local readable, run = pcall(cjson.decode, record)
  if readable and type(run) == 'table' and run.status and run.created and run.attempt then return run end
end

local function load()
  local record = redis.call('HGET', runs, correlation_id)
  return record and read(record) or nil
end

local function all_runs()
  local known, records = {}, redis.call('HGETALL', runs)
  for i = 1, #records, 2 do known[records[i]] = read(records[i + 1]) end
  return known
end

local function erased_since()
  local mark = redis.call('GET', erasure)
  return mark and tonumber(string.match(mark, '^%d+')) or -1
end

local function is_being_erased()
  local mark = redis.call('GET', erasure)
  return mark and now < tonumber(string.match(mark, '%d+$'))
end

local function save(run)
  if keys == 0 then
    redis.call('XGROUP', 'CREATE', stream, 'none', '$', 'MKSTREAM')
    redis.call('XGROUP', 'DESTROY', stream, 'none')
    keys = 2
  end
  run.seen = now
  redis.call('HSET', runs, correlation_id, cjson.encode(run))
  redis.call('PEXPIRE', runs, ttl)
  redis.call('PEXPIRE', stream, ttl)
  if KEYS[4] then redis.call('SPUBLISH', KEYS[4], '') end
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
  if created > 0 then run.created = created end
  if keys == 0 then redis.call('HSET', runs, '', 'incomplete') end
  return run
end

local function is_erased()
  return created <= erased_since()
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

-- The text that the newest attempt has streamed.
local function streamed(run)
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
"""

# ARGV: agent, claim, claim_ms. Answers the time when the run was accepted where the caller is the one to start it, 0
# where it is not, and -1 while the conversation is being erased.
ACCEPT = (
    _PRELUDE
    + """
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
"""
)

# ARGV: claim. Ends a run that could not be started, unless someone else has claimed it meanwhile. Nobody was told of
# it, so nobody is told of its end; and should it be started all the same, it does nothing.
WITHDRAW = (
    _PRELUDE
    + """
local run = load()
if run and run.status == 'queued' and run.attempt == 0 and run.claim == ARGV[4] then
  run.status, run.ended, run.not_started = 'failed', now, true
  save(run)
end
return 0
"""
)

# ARGV: in_order (1 or 0), the attempt that this one takes the place of or 0 for none.
# Answers {verdict, attempt}; the verdict is 'wait' while in_order forbids to begin.
BEGIN = (
    _PRELUDE
    + """
local run = load()
if not run then
  if is_erased() then return {'stop', '0'} end
  run = lost_run()
end
local replaced = tonumber(ARGV[5])
if not is_open(run) or run.answered or (replaced > 0 and run.attempt > replaced) then
  return {'stop', string.format('%.0f', run.attempt)}
end
-- An agent answers a conversation's messages one after another, so its other run that has begun is about to end.
if ARGV[4] == '1' and run.attempt == 0 then
  for name, other in pairs(all_runs()) do
    if name ~= correlation_id and is_open(other) and other.attempt > 0 and other.agent == run.agent then
      return {'wait', '0'}
    end
  end
end
if run.lost and keys == 0 then save(run) end
local streamed_before = run.lost or run.next > 0
run.attempt = math.max(run.attempt + 1, now)
if streamed_before then reset(run, 'attempt') else run.from = last_id() end
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
local attempt, sequence = tonumber(ARGV[4]), tonumber(ARGV[5])
local run = load()
if run and (not is_open(run) or run.answered or attempt < run.attempt) then return 'stop' end
if not run and is_erased() then return 'stop' end
if not run or attempt > run.attempt then
  run = run or lost_run()
  run.attempt, run.next, run.from = attempt, sequence, last_id()
  if run.status == 'queued' then run.status = 'running' end
end
if keys == 0 then save(run) end
for i = 6, #ARGV, 2 do
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

# ARGV: attempt, failed (1 or 0). From now on no other attempt can begin. Answers the verdict, 'stop' where the attempt
# must not answer.
ANSWER = (
    _PRELUDE
    + """
local run = load()
if not run then return is_erased() and 'stop' or 'continue' end
if not is_open(run) or tonumber(ARGV[4]) ~= run.attempt then return 'stop' end
run.answered, run.failed = true, ARGV[5] == '1' or nil
save(run)
return run.status == 'cancelling' and 'cancel' or 'continue'
"""
)

# For an attempt that was stopped. Answers {kind, text, silent_ms}: 'answered' and the run's text; 'failed',
# 'not_started', 'erased' or 'unknown'; or 'open' and for how long nothing was heard of the newest attempt.
LOOK = (
    _PRELUDE
    + """
local run = load()
if not run then return {is_erased() and 'erased' or 'unknown', '', '0'} end
if run.not_started then return {'not_started', '', '0'} end
if run.status == 'failed' or run.status == 'timed_out' or (run.answered and run.failed) then
  return {'failed', '', '0'}
end
if run.answered or not is_open(run) then return {'answered', streamed(run), '0'} end
return {'open', '', string.format('%.0f', now - run.seen)}
"""
)

# ARGV: status, event, data, unstarted (1 to act only on a run without an attempt, else 0), compare (1 or 0), then the
# committed answer in chunks. Answers the run's status; 'answered', and nothing is done, where the run timer fired after
# the answer; 'erased' where there is nothing to end any more.
FINISH = (
    _PRELUDE
    + """
local status, event, data, unstarted, compare = ARGV[4], ARGV[5], ARGV[6], ARGV[7] == '1', ARGV[8] == '1'
local run = load()
if not run then
  if is_erased() then return 'erased' end
  run = lost_run()
end
-- Of a run that was lost nobody knows whether an attempt had begun.
if not is_open(run) or (unstarted and (run.attempt > 0 or run.lost)) then return run.status end
if status == 'timed_out' and run.answered then return 'answered' end
if keys == 0 then save(run) end

if compare and (run.lost or streamed(run) ~= table.concat(ARGV, '', 9)) then
  local tell = run.lost or run.next > 0
  run.attempt, run.next = math.max(run.attempt + 1, now), 0
  if tell then reset(run, 'repaired') end
  for i = 9, #ARGV do add(run, string.format('%.0f', now), ARGV[i]) end
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

# ARGV: resend_ms. Answers {the run's status before the call or '' for an unknown run, whether to tell the durable
# runtime as 1 or 0}: once, and again after resend_ms, should the first time have failed.
CANCEL = (
    _PRELUDE
    + """
local known = load()
if not known and is_erased() then return {'erased', '0'} end
local run = known or lost_run()
local status = known and known.status or ''
local send = is_open(run) and now - (run.cancel_sent or 0) > tonumber(ARGV[4])
if is_open(run) then
  run.status = 'cancelling'
  if send then run.cancel_sent = now end
  save(run)
end
return {status, send and '1' or '0'}
"""
)

# ARGV (with an empty correlation_id): the erasure that the caller saw before it read the durable state, and a JSON list
# of runs {correlation_id, agent, created, status} and, for one that has ended, {event, data, chunks}. Adds those that
# Redis does not know, so that of many callers one restores. Answers 1, or 0 where the conversation was erased since.
RESTORE = (
    _PRELUDE
    + """
if is_being_erased() or (redis.call('GET', erasure) or '') ~= ARGV[4] then return 0 end
for _, lost in ipairs(cjson.decode(ARGV[5])) do
  correlation_id = lost.correlation_id
  if not load() and not (lost.created > 0 and lost.created <= erased_since()) then
    local run = lost_run()
    run.status, run.agent = lost.status, lost.agent
    save(run)
    if not is_open(run) then
      run.attempt, run.ended = now, now
      reset(run, 'expired')
      for _, chunk in ipairs(lost.chunks) do add(run, string.format('%.0f', now), chunk) end
      run.terminal = add(run, string.format('%.0f', now), lost.data, lost.event)
    end
    save(run)
  end
end
redis.call('HDEL', runs, '')
return 1
"""
)

# ARGV (with an empty correlation_id): how long the erasure is remembered, and for how long the durable runtime may
# still know the conversation, both in ms. Forgets it, unless a run is open: answers the time of the erasure, or 0.
ERASE = (
    _PRELUDE
    + """
for _, run in pairs(all_runs()) do
  if is_open(run) then return '0' end
end
redis.call('DEL', stream, runs)
local since = math.max(now, erased_since() + 1)
redis.call('SET', erasure, string.format('%.0f:%.0f', since, now + tonumber(ARGV[5])), 'PX', ARGV[4])
return string.format('%.0f', since)
"""
)
