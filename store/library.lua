-- Playhead's server-side functions. Each touches the keys of one stream (one cluster slot) and is
-- atomic. Loaded under a name that holds the digest of this text, so that gateways of two versions
-- share a server. An entry id is <event ms>-<sequence>; sequences are dense and never reused.

local function number(text)
  return tonumber(text)
end

-- Position of an entry id: ms, sequence.
local function split(id)
  local dash = string.find(id, '-', 1, true)
  return number(string.sub(id, 1, dash - 1)), number(string.sub(id, dash + 1))
end

local function id_of(ms, sequence)
  return string.format('%.0f-%.0f', ms, sequence)
end

-- Redis counts only calls that it can replicate: numbers go back as text, since 2^31 and more
-- would be cut by some clients' integer types and a Lua double prints with an exponent.
local function text(value)
  return string.format('%.0f', value)
end

local function server_time()
  local now = redis.call('TIME')
  return number(now[1]), number(now[2])
end

local function now_ms()
  local seconds, micros = server_time()
  return seconds * 1000 + math.floor(micros / 1000)
end

-- The last id ever given, which deletes and trims leave alone (the newest entry's id would not do:
-- deleting that entry must not free its number). 0, 0 for a log that does not exist.
local function last_position(log)
  if redis.call('EXISTS', log) == 0 then
    return 0, 0
  end
  local info = redis.call('XINFO', 'STREAM', log)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      return split(info[i + 1])
    end
  end
  return error('XINFO STREAM has no last-generated-id')
end

local function first_entry(log, from)
  return redis.call('XRANGE', log, from, '+', 'COUNT', 1)[1]
end

local function start_epoch(meta)
  local seconds, micros = server_time()
  local epoch = string.format('%x', seconds * 1000000 + micros)
  redis.call('HSET', meta, 'epoch', epoch, 'floor', 0)
  return epoch
end

-- After entries left the front: everything before the first one kept is below the floor.
local function raise_floor(log, meta)
  local first = first_entry(log, '-')
  local _, sequence = last_position(log)
  if first then
    local _, first_sequence = split(first[1])
    sequence = first_sequence - 1
  end
  redis.call('HSET', meta, 'floor', text(sequence))
end

-- RFC 3339 in UTC with milliseconds. Civil date from a day count: proleptic Gregorian calendar,
-- 400-year eras that begin on 1 March.
local function rfc3339(ms)
  local seconds = math.floor(ms / 1000)
  local days = math.floor(seconds / 86400)
  local rest = seconds - days * 86400
  local shifted = days + 719468
  local era = math.floor(shifted / 146097)
  local day_of_era = shifted - era * 146097
  local year_of_era = math.floor((day_of_era - math.floor(day_of_era / 1460)
    + math.floor(day_of_era / 36524) - math.floor(day_of_era / 146096)) / 365)
  local day_of_year = day_of_era - (365 * year_of_era + math.floor(year_of_era / 4)
    - math.floor(year_of_era / 100))
  local month_index = math.floor((5 * day_of_year + 2) / 153)
  local day = day_of_year - math.floor((153 * month_index + 2) / 5) + 1
  local month = month_index < 10 and month_index + 3 or month_index - 9
  local year = year_of_era + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', year, month, day,
    math.floor(rest / 3600), math.floor(rest / 60) % 60, rest % 60, ms - seconds * 1000)
end

-- The first entry whose sequence is target or higher, by bisection over event time: a step is one
-- XRANGE of one entry (about 6 us), 20 to 40 steps in any log. nil when there is none.
local function seek(log, target)
  local first = first_entry(log, '-')
  if not first then
    return nil
  end
  local low, low_sequence = split(first[1])
  if low_sequence >= target then
    return first
  end
  local newest = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  local high, high_sequence = split(newest[1])
  if high_sequence < target then
    return nil
  end
  -- The first entry at or after `low` ms lies before the target; the first one at or after `high`
  -- does not (past the newest entry's ms there is nothing, which counts as not before).
  high = high + 1
  while high - low > 1 do
    local middle = math.floor((low + high) / 2)
    local ms, sequence = split(first_entry(log, text(middle))[1])
    if sequence < target then
      low = ms
    else
      high = middle
    end
  end
  return first_entry(log, id_of(low, target))
end

-- append(log, meta, then the key of each promise | window ms, middle, tail, then per draft: topic,
-- head, time ms or '', fingerprint or '') -> epoch, then per draft: status, ms, sequence.
-- A draft with a fingerprint is promised under the next key. All keys are named, so that a cluster
-- refuses a call while it moves some of them: a promise it could not see would be stored twice.
-- Status: 0 stored, 1 stored before under this key, 2 before the last event, 3 in the future,
-- 4 key used for another event. O(drafts), about 8 us each.
local function append(keys, args)
  local log, meta = keys[1], keys[2]
  local window, middle, tail = args[1], args[2], args[3]
  local promised = 2
  local last_ms, last_sequence = last_position(log)
  local epoch = redis.call('HGET', meta, 'epoch')
  if not epoch or last_sequence == 0 then
    epoch = start_epoch(meta)
    if last_sequence > 0 then
      raise_floor(log, meta)
    end
  end
  local now = now_ms()
  local written_ms, written = -1, nil
  local reply = { epoch }
  for i = 4, #args, 4 do
    local topic, head, given, fingerprint = args[i], args[i + 1], args[i + 2], args[i + 3]
    local status, ms, sequence = 0, nil, 0
    local promise = nil
    if fingerprint ~= '' then
      promised = promised + 1
      promise = keys[promised]
    end
    local kept = promise and redis.call('HMGET', promise, 'epoch', 'fingerprint', 'ms', 'sequence')
    if kept and kept[1] == epoch then
      status = kept[2] == fingerprint and 1 or 4
      ms, sequence = number(kept[3]), number(kept[4])
    elseif given == '' then
      ms = math.max(now, last_ms)
    else
      ms = number(given)
      if ms < last_ms then
        status, ms = 2, last_ms
      elseif ms > now then
        status, ms = 3, now
      end
    end
    if status == 0 then
      sequence = last_sequence + 1
      if ms ~= written_ms then
        written_ms, written = ms, rfc3339(ms)
      end
      redis.call('XADD', log, id_of(ms, sequence), topic,
        head .. text(sequence) .. middle .. written .. tail)
      if promise then
        redis.call('HSET', promise, 'epoch', epoch, 'fingerprint', fingerprint,
          'ms', text(ms), 'sequence', text(sequence))
        redis.call('PEXPIRE', promise, window)
      end
      last_ms, last_sequence = ms, sequence
    end
    reply[#reply + 1] = status
    reply[#reply + 1] = text(ms)
    reply[#reply + 1] = text(sequence)
  end
  return reply
end

-- head(log, meta) -> epoch, floor, last ms, last sequence, first sequence (0: empty). O(1).
local function head(keys)
  local log, meta = keys[1], keys[2]
  local last_ms, last_sequence = last_position(log)
  if last_sequence == 0 then
    return { '', '0', '0', '0', '0' }
  end
  local kept = redis.call('HMGET', meta, 'epoch', 'floor')
  local first = first_entry(log, '-')
  local first_sequence = 0
  if first then
    local _, sequence = split(first[1])
    first_sequence = sequence
  end
  return { kept[1] or '', kept[2] or '0', text(last_ms), text(last_sequence), text(first_sequence) }
end

-- at_sequence(log | sequence) -> id of the first entry at or after it, or nil. O(log n).
local function at_sequence(keys, args)
  local found = seek(keys[1], number(args[1]))
  return found and found[1]
end

-- delete(log | sequence) -> 1 when the event was there. O(log n).
local function delete(keys, args)
  local target = number(args[1])
  local found = seek(keys[1], target)
  if not found then
    return 0
  end
  local _, sequence = split(found[1])
  return sequence == target and redis.call('XDEL', keys[1], found[1]) or 0
end

-- wipe(log, meta) -> 1 when the log exists. Keeps the last id, so that no sequence comes twice. O(n).
local function wipe(keys)
  if redis.call('EXISTS', keys[1]) == 0 then
    return 0
  end
  redis.call('XTRIM', keys[1], 'MAXLEN', 0)
  raise_floor(keys[1], keys[2])
  return 1
end

-- trim(log, meta | max age ms or '', max count or '', max bytes or '') -> entries removed.
-- O(removed). Bytes are MEMORY USAGE, an estimate from five sampled nodes.
local function trim(keys, args)
  local log, meta = keys[1], keys[2]
  if redis.call('EXISTS', log) == 0 then
    return 0
  end
  local removed = 0
  if args[1] ~= '' then
    local oldest = math.max(0, now_ms() - number(args[1]))
    removed = removed + redis.call('XTRIM', log, 'MINID', id_of(oldest, 0))
  end
  if args[2] ~= '' then
    removed = removed + redis.call('XTRIM', log, 'MAXLEN', args[2])
  end
  if args[3] ~= '' then
    local limit, used = number(args[3]), redis.call('MEMORY', 'USAGE', log, 'SAMPLES', 5)
    if used > limit then
      local keep = math.floor(redis.call('XLEN', log) * limit / used)
      removed = removed + redis.call('XTRIM', log, 'MAXLEN', text(keep))
    end
  end
  if removed > 0 then
    raise_floor(log, meta)
  end
  return removed
end

-- confirm(log, meta | ms, sequence, epoch) -> epoch. Asked after a lost connection by a reader that
-- stood at this position: when the log no longer reaches it, or holds another event in that place (a
-- failover lost writes), the epoch changes, so that every cursor of the lost history is told. One loss
-- is one new epoch, however many readers come to ask. O(log n).
local function confirm(keys, args)
  local log, meta = keys[1], keys[2]
  local ms, sequence, known = number(args[1]), number(args[2]), args[3]
  local last_ms, last_sequence = last_position(log)
  if last_sequence == 0 then
    return ''
  end
  local current = redis.call('HGET', meta, 'epoch')
  if current and current ~= known then
    return current
  end
  local diverged = last_sequence < sequence or (last_sequence == sequence and last_ms ~= ms)
  if not diverged then
    local found = seek(log, sequence)
    if found then
      local found_ms, found_sequence = split(found[1])
      diverged = found_sequence == sequence and found_ms ~= ms
    end
  end
  if diverged then
    local floor = redis.call('HGET', meta, 'floor')
    local epoch = start_epoch(meta)
    redis.call('HSET', meta, 'floor', floor or 0)
    return epoch
  end
  return current or start_epoch(meta)
end

redis.register_function('append_@DIGEST@', append)
redis.register_function('head_@DIGEST@', head)
redis.register_function('at_sequence_@DIGEST@', at_sequence)
redis.register_function('delete_@DIGEST@', delete)
redis.register_function('wipe_@DIGEST@', wipe)
redis.register_function('trim_@DIGEST@', trim)
redis.register_function('confirm_@DIGEST@', confirm)
