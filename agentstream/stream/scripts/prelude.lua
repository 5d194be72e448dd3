-- Comes before every script, or in the place of its line "-- prelude". See the docstring of this package for keys,
-- arguments and records.

local stream, runs, erasure = KEYS[1], KEYS[2], KEYS[3]
local ttl, correlation_id, created = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
-- More than this at once is read by those who follow.
local MAX_PUBLISHED_BYTES = 16384

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

-- The entries that were added and not yet published, as Redis answers them, and how large they are.
local news, news_bytes = {}, 0

local function publish()
  if news[1] then
    redis.call('SPUBLISH', stream, news_bytes > MAX_PUBLISHED_BYTES and '' or cjson.encode(news))
    news, news_bytes = {}, 0
  end
end

-- While an attempt may append, its record begins with what append.lua reads and changes without decoding it. Times have
-- 13 digits.
local function record_of(run)
  run.writer = nil
  if run.status ~= 'running' or run.answered then return cjson.encode(run) end
  local rest = {}
  for name, value in pairs(run) do rest[name] = value end
  rest.next, rest.seen, rest.renewed = nil
  return string.format('{"writer":%.0f,"next":%.0f,"seen":%.0f,"renewed":%.0f,', run.attempt, run.next, run.seen,
    run.renewed) .. string.sub(cjson.encode(rest), 2)
end

local function save(run)
  if keys == 0 then
    redis.call('XGROUP', 'CREATE', stream, 'none', '$', 'MKSTREAM')
    redis.call('XGROUP', 'DESTROY', stream, 'none')
    keys = 2
  end
  run.seen, run.renewed = now, now
  redis.call('HSET', runs, correlation_id, record_of(run))
  redis.call('PEXPIRE', runs, ttl)
  redis.call('PEXPIRE', stream, ttl)
  publish()
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
  local fields = {'text', text, 'sequence', string.format('%.0f', run.next), 'timestamp', timestamp,
    'correlation_id', correlation_id, 'attempt', string.format('%.0f', run.attempt)}
  if event then
    fields[#fields + 1], fields[#fields + 2] = 'event', event
  end
  local id = redis.call('XADD', stream, '*', unpack(fields))
  news[#news + 1] = {id, fields}
  news_bytes = news_bytes + #text
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
