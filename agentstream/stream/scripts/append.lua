-- ARGV: attempt, sequence of the first chunk, then (timestamp, text, event) per chunk, none to keep the run alive; the
-- event is empty for a message. A chunk whose sequence number was appended before is skipped, so a repeated call
-- changes nothing.

-- What a live attempt asks over and over, to append its next chunk or only to be kept alive, is answered before the
-- prelude and without decoding the record. All else comes after it, and text that is too large to be published.
do
  local attempt, sequence, timestamp, text, event = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
  local record = redis.call('HGET', KEYS[2], ARGV[2])
  -- As record_of of the prelude writes it.
  local writer = '{"writer":' .. attempt .. ',"next":'
  local head = writer .. sequence .. ',"seen":'
  if record and string.sub(record, 1, #head) == head and not ARGV[9] and #(text or '') <= 16384 then
    local renewed, rest = string.sub(record, #head + 25, #head + 37), string.sub(record, #head + 38)
    local now, entry
    if text then
      local fields = {'text', text, 'sequence', sequence, 'timestamp', timestamp,
        'correlation_id', ARGV[2], 'attempt', attempt}
      if event ~= '' then fields[11], fields[12] = 'event', event end
      local id = redis.call('XADD', KEYS[1], 'NOMKSTREAM', '*', unpack(fields))
      if id then
        -- An id begins with the time.
        now = string.sub(id, 1, 13)
        -- By hand, since cjson takes a tenth of the whole for a table.
        entry = '[["' .. id .. '",["text",' .. cjson.encode(text) .. ',"sequence","' .. sequence ..
          '","timestamp","' .. timestamp .. '","correlation_id",' .. cjson.encode(ARGV[2]) ..
          ',"attempt","' .. attempt .. (event == '' and '"]]]' or '","event","' .. event .. '"]]]')
        sequence = sequence + 1
      end
    elseif redis.call('EXISTS', KEYS[1]) == 1 then
      local time = redis.call('TIME')
      now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
    end
    -- Without its stream the record is what an eviction left of both.
    if now then
      if now - renewed > ARGV[1] / 4 then
        redis.call('PEXPIRE', KEYS[1], ARGV[1])
        redis.call('PEXPIRE', KEYS[2], ARGV[1])
        renewed = now
      end
      redis.call('HSET', KEYS[2], ARGV[2],
        writer .. sequence .. ',"seen":' .. now .. ',"renewed":' .. renewed .. rest)
      if entry then redis.call('SPUBLISH', KEYS[1], entry) end
      return 'continue'
    end
  end
end

-- prelude

local attempt, sequence = tonumber(ARGV[4]), tonumber(ARGV[5])
local run = load()
if run and (not is_open(run) or run.answered or attempt < run.attempt) then return 'stop' end
if not run and is_erased() then return 'stop' end
if not run or attempt > run.attempt then
  run = run or lost_run()
  run.attempt, run.begun_by, run.next, run.from = attempt, nil, sequence, last_id()
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
