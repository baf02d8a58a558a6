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
  return sequence
end

-- The topic index: who wants the events of a few topics finds them without reading the others. Of
-- every event in turn there is the label of its topic (2 bytes) and its time (ms, 6 bytes): of the
-- newest in the strings `labels` and `times`, which become two fields of the hash `topics` as soon as
-- they are BLOCK long, l<first sequence> and t<first sequence>. Its field 'from' is the first sequence
-- of the index, 'fresh' of the meta that of the strings. All keys are there from the first event on: a
-- cluster takes a key that is missing for one that has moved.
local BLOCK = 1024

local function index_of(keys)
  return { meta = keys[2], topics = keys[3], labels = keys[4], times = keys[5] }
end

local function times_of(ms, count)
  return string.rep(struct.pack('>I6', ms), count)
end

local function start_index(index, first, labels, times)
  redis.call('DEL', index.topics)
  redis.call('HSET', index.topics, 'from', text(first))
  redis.call('HSET', index.meta, 'fresh', text(first))
  redis.call('SET', index.labels, labels)
  redis.call('SET', index.times, times)
end

-- Labels and times of the newest events, behind those from sequence `fresh` on. An older Playhead
-- appends without them: what is missing shows in the number of those there are; the index starts anew.
local function add_topics(index, fresh, labels, times, last_sequence)
  local first = number(fresh)
  local count = redis.call('APPEND', index.labels, labels) / 2
  local timed = redis.call('APPEND', index.times, times) / 6
  if not first or first + count - 1 ~= last_sequence or timed ~= count then
    count = #labels / 2
    first = last_sequence - count + 1
    start_index(index, first, labels, times)
  end
  while count >= BLOCK do
    labels, times = redis.call('GET', index.labels), redis.call('GET', index.times)
    redis.call('HSET', index.topics, 'l' .. text(first), string.sub(labels, 1, BLOCK * 2),
      't' .. text(first), string.sub(times, 1, BLOCK * 6))
    redis.call('HSET', index.meta, 'fresh', text(first + BLOCK))
    redis.call('SET', index.labels, string.sub(labels, BLOCK * 2 + 1))
    redis.call('SET', index.times, string.sub(times, BLOCK * 6 + 1))
    first, count = first + BLOCK, count - BLOCK
  end
end

-- Forget the blocks that lie below the floor.
local function trim_index(index, floor)
  local topics = index.topics
  local from = number(redis.call('HGET', topics, 'from'))
  local fresh = number(redis.call('HGET', index.meta, 'fresh'))
  if not from or not fresh then
    return
  end
  local first = from
  while first < fresh and first + BLOCK - 1 <= floor do
    redis.call('HDEL', topics, 'l' .. text(first), 't' .. text(first))
    first = first + BLOCK
  end
  if first > from then
    redis.call('HSET', topics, 'from', text(first))
  end
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

-- The time of an event that was ever stored, nil when the index does not have it.
local function time_of(index, sequence)
  local fresh = number(redis.call('HGET', index.meta, 'fresh'))
  if fresh and sequence >= fresh then
    local at = (sequence - fresh) * 6
    local time = redis.call('GETRANGE', index.times, at, at + 5)
    return #time == 6 and (struct.unpack('>I6', time)) or nil
  end
  local from = fresh and number(redis.call('HGET', index.topics, 'from'))
  if not from or sequence < from then
    return nil
  end
  local place = (sequence - from) % BLOCK
  local times = redis.call('HGET', index.topics, 't' .. text(sequence - place))
  return times and (struct.unpack('>I6', times, place * 6 + 1))
end

-- The first entry whose sequence is target or higher, nil when there is none: by the time of the
-- target in the index, O(log n); of what an older Playhead stored, by bisection over event time,
-- where a step is one XRANGE of one entry (about 6 us), 20 to 40 steps in any log.
local function seek(log, index, target)
  local ms = time_of(index, target)
  if ms then
    return first_entry(log, id_of(ms, target))
  end
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

-- append(log, meta, topics, labels, times, then the key of each promise | window ms, middle, tail,
-- the labels of all topics, number of drafts, per draft: topic, head; then per draft that has one of
-- the two, in order: its number, time ms or '', fingerprint or '') -> epoch, then runs: status, drafts
-- in a row, ms, sequence of the first; drafts stored one after the other in one ms are one run, any
-- other is one of its own.
-- A draft with a fingerprint is promised under the next key. All keys are named, so that a cluster
-- refuses a call while it moves some of them: a promise it could not see would be stored twice.
-- Status: 0 stored, 1 stored before under this key, 2 before the last event, 3 in the future,
-- 4 key used for another event. O(drafts), about 5 us each.
local function append(keys, args)
  local log, meta, index = keys[1], keys[2], index_of(keys)
  local window, middle, tail, given_labels, count = args[1], args[2], args[3], args[4], number(args[5])
  local own_at, promised = 6 + count * 2, 5
  -- Of what is stored: labels, those of so many drafts are looked at, and times in runs of one.
  local labels, labelled, times, run = {}, 0, {}, 0
  local last_ms, last_sequence = last_position(log)
  local known = redis.call('HMGET', meta, 'epoch', 'fresh')
  local epoch, fresh = known[1], known[2]
  if not epoch or last_sequence == 0 then
    epoch = start_epoch(meta)
    if last_sequence > 0 then
      raise_floor(log, meta)
    end
  end
  local now = now_ms()
  local written_ms, ms_text, closing = -1, nil, nil
  local reply, told_ms = { epoch }, nil
  local own = number(args[own_at] or 0)
  for i = 1, count do
    local topic, head, given, fingerprint = args[4 + i * 2], args[5 + i * 2], '', ''
    if i == own then
      given, fingerprint = args[own_at + 1], args[own_at + 2]
      own_at = own_at + 3
      own = number(args[own_at] or 0)
    end
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
        if run > 0 then
          times[#times + 1] = times_of(written_ms, run)
        end
        written_ms, run = ms, 0
        ms_text, closing = text(ms), middle .. rfc3339(ms) .. tail
      end
      local sequence_text = text(sequence)
      redis.call('XADD', log, ms_text .. '-' .. sequence_text, topic, head .. sequence_text .. closing)
      run = run + 1
      if promise then
        redis.call('HSET', promise, 'epoch', epoch, 'fingerprint', fingerprint,
          'ms', ms_text, 'sequence', sequence_text)
        redis.call('PEXPIRE', promise, window)
      end
      last_ms, last_sequence = ms, sequence
    else
      labels[#labels + 1] = string.sub(given_labels, labelled * 2 + 1, i * 2 - 2)
      labelled = i
    end
    if status == 0 and ms == told_ms then
      reply[#reply - 2] = reply[#reply - 2] + 1
    else
      local at = #reply
      reply[at + 1], reply[at + 2], reply[at + 3], reply[at + 4] = status, 1, text(ms), text(sequence)
      told_ms = status == 0 and ms or nil
    end
  end
  if run > 0 then
    labels[#labels + 1] = string.sub(given_labels, labelled * 2 + 1)
    times[#times + 1] = times_of(written_ms, run)
    add_topics(index, fresh, table.concat(labels), table.concat(times), last_sequence)
  end
  return reply
end

-- append_changes(log, meta, topics, labels, times, a table's hash of rows each | source, mark there
-- must be, mark there is then, opened, middle, tail, the labels of all topics, number of drafts, per
-- draft: time ms, topic, head; then per row to remember: number of its hash, field or '' for all of
-- them, number of its draft or 0 to forget it)
-- -> 1 when stored, epoch, the mark there is now, last ms, last sequence.
-- All or nothing: when another mark is there, somebody stored what the caller does not know of. Time
-- never goes back. `opened` is the number of the draft that begins a transaction whose end is not
-- among these, '' when there is none, 'keep' when it began in an earlier call: its changes all have
-- the time of the first. O(drafts), about 4 us each.
local function append_changes(keys, args)
  local log, meta, index = keys[1], keys[2], index_of(keys)
  local source, expected, mark, opened = args[1], args[2], args[3], args[4]
  local middle, tail, labels, count = args[5], args[6], args[7], number(args[8])
  local last_ms, last_sequence = last_position(log)
  local kept = redis.call('HMGET', meta, 'epoch', 'mark:' .. source, 'open:' .. source, 'fresh')
  local epoch, found, open, fresh = kept[1], kept[2] or '', kept[3], kept[4]
  if not epoch or last_sequence == 0 then
    epoch = start_epoch(meta)
    if last_sequence > 0 then
      raise_floor(log, meta)
    else
      -- The log is gone, and with it what the mark stood for.
      found = ''
    end
  end
  if found ~= expected then
    redis.call('HSET', meta, 'mark:' .. source, found)
    return { 0, epoch, found, text(last_ms), text(last_sequence) }
  end
  local ids, times, run = {}, {}, 0
  local given, ms_text, closing = nil, nil, nil
  for i = 1, count do
    local at = 6 + i * 3
    if args[at] ~= given then
      given = args[at]
      if run > 0 then
        times[#times + 1] = times_of(last_ms, run)
        run = 0
      end
      if i > 1 or not open then
        last_ms = math.max(number(given), last_ms)
      end
      ms_text, closing = text(last_ms) .. '-', middle .. rfc3339(last_ms) .. tail
    end
    last_sequence = last_sequence + 1
    local sequence = text(last_sequence)
    ids[i] = ms_text .. sequence
    redis.call('XADD', log, ids[i], args[at + 1], args[at + 2] .. sequence .. closing)
    run = run + 1
  end
  if run > 0 then
    times[#times + 1] = times_of(last_ms, run)
    add_topics(index, fresh, labels, table.concat(times), last_sequence)
  end
  for at = 9 + count * 3, #args, 3 do
    local rows, field, draft = keys[5 + number(args[at])], args[at + 1], number(args[at + 2])
    if field == '' then
      redis.call('DEL', rows)
    elseif draft == 0 then
      redis.call('HDEL', rows, field)
    else
      redis.call('HSET', rows, field, ids[draft])
    end
  end
  if opened == '' then
    redis.call('HDEL', meta, 'open:' .. source)
  elseif opened ~= 'keep' then
    redis.call('HSET', meta, 'open:' .. source, text(last_sequence - count + number(opened)))
  end
  redis.call('HSET', meta, 'mark:' .. source, mark)
  return { 1, epoch, mark, text(last_ms), text(last_sequence) }
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

-- at_sequence(log, meta, topics, labels, times | sequence) -> id of the first entry at or after it, or
-- nil. O(log n).
local function at_sequence(keys, args)
  local found = seek(keys[1], index_of(keys), number(args[1]))
  return found and found[1]
end

-- delete(log, meta, topics, labels, times | sequence) -> 1 when the event was there. O(log n).
local function delete(keys, args)
  local target = number(args[1])
  local found = seek(keys[1], index_of(keys), target)
  if not found then
    return 0
  end
  local _, sequence = split(found[1])
  return sequence == target and redis.call('XDEL', keys[1], found[1]) or 0
end

-- wipe(log, meta, topics, labels, times) -> 1 when the log exists. Keeps the last id, so that no
-- sequence comes twice. O(n).
local function wipe(keys)
  if redis.call('EXISTS', keys[1]) == 0 then
    return 0
  end
  redis.call('XTRIM', keys[1], 'MAXLEN', 0)
  start_index(index_of(keys), raise_floor(keys[1], keys[2]) + 1, '', '')
  return 1
end

-- trim(log, meta, topics, labels, times | max age ms or '', max count or '', max bytes or '') ->
-- entries removed. O(removed). Bytes are MEMORY USAGE, an estimate from five sampled nodes.
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
    trim_index(index_of(keys), raise_floor(log, meta))
  end
  return removed
end

-- Where in a block the labels wanted stand, from 0, in order; nil when they are one in 8 and more,
-- where a scan costs less than a look-up of each.
local DENSE = BLOCK / 8

local function find_labels(labels, wanted)
  local found = {}
  for _, label in ipairs(wanted) do
    local at = string.find(labels, label, 1, true)
    while at do
      if at % 2 == 1 then
        if #found == DENSE then
          return nil
        end
        found[#found + 1] = (at - 1) / 2
      end
      at = string.find(labels, label, at + 1, true)
    end
  end
  table.sort(found)
  return found
end

local function id_at(times, place, sequence)
  return id_of(struct.unpack('>I6', times, place * 6 + 1), sequence)
end

-- selected(log, meta, topics, labels, times | epoch, after sequence, until ms, until sequence, entries
-- at most, then each label) -> '', id up to which was looked, the entries on the way whose topics
-- have one of the labels. Else the sequence up to which to scan: the index does not have those
-- events or is of no use there, or there is something to tell of them. At most LOOKS blocks, about
-- 2 us each, and 5 us an entry.
local LOOKS = 1024

local function selected(keys, args)
  local log, meta, index = keys[1], keys[2], index_of(keys)
  local after, last, most = number(args[2]), number(args[4]), number(args[5])
  local wanted = { unpack(args, 6) }
  local kept = redis.call('HMGET', meta, 'epoch', 'floor', 'fresh')
  local from, fresh = number(redis.call('HGET', index.topics, 'from')), number(kept[3])
  if kept[1] ~= args[1] or not from or not fresh or redis.call('EXISTS', log) == 0 then
    return { args[4] }
  end
  local unknown = math.max(number(kept[2]), from - 1)
  if unknown > after then
    return { text(unknown) }
  end
  local newest = last >= fresh and redis.call('GET', index.labels)
  if newest and #newest / 2 <= last - fresh then
    return { args[4] }
  end
  local function times_from(first)
    if first < fresh then
      return redis.call('HGET', index.topics, 't' .. text(first))
    end
    return redis.call('GET', index.times)
  end
  local entries, scan, looked = {}, nil, 0
  local start = after + 1 - (after + 1 - from) % BLOCK
  local first = start
  while first <= last and looked < LOOKS do
    local labels = newest
    if first < fresh then
      labels = redis.call('HGET', index.topics, 'l' .. text(first))
    end
    local found = labels and find_labels(labels, wanted)
    if (found and scan) or (not found and first > start and not scan) then
      break
    end
    if not found then
      scan = first + BLOCK - 1
      looked = looked + LOOKS / 16  -- to count what is dense takes so much longer
    elseif #found > 0 then
      local times = times_from(first)
      for _, place in ipairs(found) do
        local sequence = first + place
        local id = id_at(times, place, sequence)
        local entry = sequence > after and sequence <= last and redis.call('XRANGE', log, id, id)[1]
        if entry then
          entries[#entries + 1] = entry
          if #entries == most then
            return { '', id, entries }
          end
        end
      end
    end
    first, looked = first + BLOCK, looked + #wanted
  end
  if scan then
    return { text(scan) }
  elseif first > last then
    return { '', args[3] .. '-' .. args[4], entries }
  end
  return { '', id_at(times_from(first - BLOCK), BLOCK - 1, first - 1), entries }
end

-- confirm(log, meta, topics, labels, times | ms, sequence, epoch) -> epoch. Asked after a lost
-- connection by a reader that stood at this position: when the log no longer reaches it, or holds
-- another event in that place (a failover lost writes), the epoch changes, so that every cursor of the
-- lost history is told. One loss is one new epoch, however many readers come to ask. O(log n).
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
    local found = seek(log, index_of(keys), sequence)
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

-- Playback sessions: one record a tenant, which is also the lock. Every verb is one atomic step that
-- walks its statuses; each of them is written to the tenant's feed, which the watchers follow. A verb
-- of an owned session, one that is played into a database too, only asks: whoever holds the lease of
-- the work walks on (session_step), and what is not at rest by its due time becomes KO.
-- Keys of every verb: record, feed, feed's meta, lease of a one-shot replay, lease of the work.

local FEED_LENGTH = 100
-- After a session's end its feed is kept so long for who has yet to hear of it.
local FEED_REST_MS = 3600000
local TEXTS = { 'id', 'status', 'speed', 'types', 'error', 'tenant', 'epoch' }
local NUMBERS = { 'revision', 'run', 'entered', 'start', 'end', 'wall', 'event', 'played', 'touched', 'idle',
  'owned', 'limit', 'due', 'resume' }

local VERBS = { INIT = true, START = true, STOP = true, END = true }

-- What people see: REPLAY_<verb>_<step>, whatever the part that works on it.
local function display(status)
  local verb, step = string.match(status, '^%u+_(%u+)_(.+)$')
  assert(VERBS[verb], status)
  return 'REPLAY_' .. verb .. '_' .. step
end

local function load_session(record)
  if redis.call('EXISTS', record) == 0 then
    return nil
  end
  local session = {}
  for i, value in ipairs(redis.call('HMGET', record, unpack(TEXTS))) do
    session[TEXTS[i]] = value
  end
  for i, value in ipairs(redis.call('HMGET', record, unpack(NUMBERS))) do
    session[NUMBERS[i]] = number(value) or 0
  end
  return session
end

local function save_session(record, session)
  local values = {}
  for _, name in ipairs(TEXTS) do
    values[#values + 1] = name
    values[#values + 1] = session[name]
  end
  for _, name in ipairs(NUMBERS) do
    values[#values + 1] = name
    values[#values + 1] = text(session[name])
  end
  redis.call('HSET', record, unpack(values))
end

local function playing(session)
  return session.status == 'MSG_START_OK'
end

-- The part and the step of a status: 'DB_INIT', 'IN_PROGRESS'.
local function parts(session)
  return string.match(session.status, '^(%u+_%u+)_(.+)$')
end

-- Whether the owner has something to do that must come to an end.
local function working(session)
  local _, step = parts(session)
  return session.owned == 1 and step ~= 'OK' and step ~= 'KO'
end

local function owed(session)
  return working(session) or (session.owned == 1 and playing(session))
end

-- Where the session stands at a wall time (ms): arithmetic, so that nobody has to move it along.
local function playhead(session, now)
  if not playing(session) then
    return session.event
  end
  local moved = math.floor(session.event + (now - session.wall) * number(session.speed) + 0.5)
  return math.max(session.event, math.min(moved, session['end']))
end

-- {"session": what clients see, "clock": what gateways play by}.
local function describe(session, now)
  local error = session.error ~= '' and cjson.encode(session.error) or 'null'
  return string.format(
    '{"session":{"display_status":"%s","error":%s,"event_types":%s,"id":"%s",'
      .. '"replay_end_timestamp":"%s","replay_last_timestamp":"%s","replay_speed":%s,'
      .. '"replay_start_timestamp":"%s","status":"%s","tenant_id":"%s"},'
      .. '"clock":{"revision":%s,"run":%s,"playing":%s,"wall_ms":%s,"event_ms":%s,"speed":%s,'
      .. '"start_ms":%s,"end_ms":%s,"run_start_ms":%s,"through_ms":%s,"told_ms":%s,"owned":%s}}',
    display(session.status), error, session.types, session.id, rfc3339(session['end']),
    rfc3339(playhead(session, now)), session.speed, rfc3339(session.start),
    session.status, session.tenant, text(session.revision), text(session.run), tostring(playing(session)),
    text(session.wall), text(session.event), session.speed, text(session.start),
    text(session['end']), text(session.entered), text(session.played == 1 and session.event or session.event - 1),
    text(now), tostring(session.owned == 1))
end

-- Go through statuses, each told to the watchers as it was passed.
local function walk(keys, session, now, statuses)
  for _, status in ipairs(statuses) do
    session.status, session.revision = status, session.revision + 1
    local last_ms, last_sequence = last_position(keys[2])
    if last_sequence == 0 then
      start_epoch(keys[3])
    end
    session.epoch = redis.call('HGET', keys[3], 'epoch')
    redis.call('XADD', keys[2], id_of(math.max(now, last_ms), last_sequence + 1), session.id,
      describe(session, now))
  end
  redis.call('XTRIM', keys[2], 'MAXLEN', '~', FEED_LENGTH)
  for i = 2, 3 do
    if session.status == 'DB_END_OK' then
      redis.call('PEXPIRE', keys[i], FEED_REST_MS)
    else
      redis.call('PERSIST', keys[i])
    end
  end
end

-- A verb of an owned session is asked for.
local function request(keys, session, now, status)
  session.error, session.due = '', now + session.limit
  walk(keys, session, now, { status })
  save_session(keys[1], session)
end

-- It plays from where it stands; at speed 0 it has played all there is.
local function begin(session, now)
  session.wall, session.played = now, 1
  if number(session.speed) == 0 then
    session.event = session['end']
  end
end

local function fail(keys, session, now, reason)
  local part, step = parts(session)
  session.event, session.wall = playhead(session, now), now
  if step == 'REQUESTED' then
    walk(keys, session, now, { part .. '_IN_PROGRESS' })
  end
  session.error = reason
  walk(keys, session, now, { part .. '_KO' })
  save_session(keys[1], session)
end

local END_WALK = { 'MSG_END_REQUESTED', 'MSG_END_IN_PROGRESS', 'MSG_END_OK', 'DB_END_REQUESTED',
  'DB_END_IN_PROGRESS', 'DB_END_OK' }

local STOP_WALK = { 'MSG_STOP_REQUESTED', 'MSG_STOP_IN_PROGRESS', 'MSG_STOP_OK' }
local START_WALK = { 'MSG_START_REQUESTED', 'MSG_START_IN_PROGRESS', 'MSG_START_OK' }

-- An end is under way.
local function ending(session)
  local part = parts(session)
  return working(session) and (part == 'MSG_END' or part == 'DB_END')
end

local function finish(keys, session, now)
  session.event, session.wall = playhead(session, now), now
  session.error = ''
  walk(keys, session, now, END_WALK)
  redis.call('DEL', keys[1])
end

-- A place of this run compares with none of another run. It begins with the events of that very time.
local function enter_run(session, run, target, now)
  session.run, session.event, session.entered, session.wall = run, target, target, now
  session.played = playing(session) and 1 or 0
end

-- The session as it stands now: one whose record is older than its feed has told (a failover lost
-- writes) is moved to where it stands by that, in a run that was never before; one that has reached its end is stopped, one that nobody has watched
-- or touched for its idle time is ended.
local function settle(keys, now)
  local session = load_session(keys[1])
  if not session then
    return nil
  end
  if session.epoch ~= redis.call('HGET', keys[3], 'epoch') then
    enter_run(session, now, playhead(session, now), now)
    session.revision = math.max(session.revision, now)
    walk(keys, session, now, { session.status })
    save_session(keys[1], session)
  end
  if playing(session) and playhead(session, now) >= session['end'] then
    session.event, session.wall = session['end'], now
    if session.owned == 1 then
      request(keys, session, now, 'MSG_STOP_REQUESTED')
    else
      walk(keys, session, now, STOP_WALK)
      save_session(keys[1], session)
    end
  end
  if working(session) and now > session.due then
    fail(keys, session, now, 'the work outlasted its limit of ' .. session.limit / 1000 .. ' seconds')
  end
  if session.idle > 0 and now - session.touched > session.idle then
    if session.owned == 0 then
      finish(keys, session, now)
      return nil
    end
    session.touched = now  -- one that cannot be cleaned up after is tried again as late
    if not ending(session) then
      session.event, session.wall = playhead(session, now), now
      request(keys, session, now, 'MSG_END_REQUESTED')
    end
  end
  return session
end

local function missing(session, id)
  return not session or session.id ~= id
end

-- A start, a seek and a stop need one of these; what runs or has failed takes none of them. What an
-- owned session goes on with when its state was rebuilt elsewhere.
local STAY, STOP, START = 0, 1, 2
local RESTING = { MSG_INIT_OK = STAY, MSG_STOP_OK = STOP, MSG_START_OK = START }

-- session_init(keys | id, tenant, start ms, end ms, speed, event types as JSON, idle ms, id to
-- initialise again or '', why the start cannot be restored or '', 1 for an owned one, ms its work may
-- take)
-- -> 'ok', 'active', 'one_shot' or 'missing', and the session (the holder's when it is active).
local function session_init(keys, args)
  local now = now_ms()
  local held = settle(keys, now)
  if held and held.id ~= args[8] then
    return { 'active', describe(held, now) }
  end
  if not held and args[8] ~= '' then
    return { 'missing' }
  end
  if redis.call('EXISTS', keys[4]) == 1 then
    return { 'one_shot' }
  end
  local session = { id = held and held.id or args[1], tenant = args[2], start = number(args[3]),
    ['end'] = number(args[4]), speed = args[5], types = args[6], idle = number(args[7]),
    error = args[9], run = held and held.run + 1 or 1, revision = held and held.revision or 0, wall = now, event = number(args[3]),
    entered = number(args[3]), played = 0, touched = now, owned = number(args[10]),
    limit = number(args[11]), due = 0, resume = 0 }
  if held and held.owned == 1 then
    session.owned = 1  -- there may be rows of it to clean up
  end
  if args[9] == '' and session.owned == 1 then
    request(keys, session, now, 'DB_INIT_REQUESTED')
    return { 'ok', describe(session, now) }
  end
  if args[9] ~= '' then
    walk(keys, session, now, { 'DB_INIT_REQUESTED', 'DB_INIT_IN_PROGRESS', 'DB_INIT_KO' })
  else
    walk(keys, session, now, { 'DB_INIT_REQUESTED', 'DB_INIT_IN_PROGRESS', 'DB_INIT_OK',
      'MSG_INIT_REQUESTED', 'MSG_INIT_IN_PROGRESS', 'MSG_INIT_OK' })
  end
  save_session(keys[1], session)
  return { 'ok', describe(session, now) }
end

-- session_start(keys | id, speed) -> 'ok', 'missing' or 'state', and the session. Speed 0 stands for
-- as fast as can be: the playhead is at the end at once.
local function session_start(keys, args)
  local now = now_ms()
  local session = settle(keys, now)
  if missing(session, args[1]) then
    return { 'missing' }
  end
  if not RESTING[session.status] then
    return { 'state', describe(session, now) }
  end
  session.event, session.wall, session.touched = playhead(session, now), now, now
  session.speed = args[2]
  if session.owned == 1 then
    request(keys, session, now, 'MSG_START_REQUESTED')
    return { 'ok', describe(session, now) }
  end
  begin(session, now)
  walk(keys, session, now, START_WALK)
  save_session(keys[1], session)
  session = settle(keys, now)
  return { 'ok', describe(session, now) }
end

-- session_stop(keys | id) -> 'ok', 'missing' or 'state', and the session.
local function session_stop(keys, args)
  local now = now_ms()
  local session = settle(keys, now)
  if missing(session, args[1]) then
    return { 'missing' }
  end
  if session.status ~= 'MSG_STOP_OK' and not playing(session) then
    -- At its end it may have asked for its stop by itself.
    local asked = working(session) and parts(session) == 'MSG_STOP'
    return { asked and 'ok' or 'state', describe(session, now) }
  end
  session.touched = now
  if playing(session) then
    session.event, session.wall = playhead(session, now), now
    if session.owned == 1 then
      request(keys, session, now, 'MSG_STOP_REQUESTED')
      return { 'ok', describe(session, now) }
    end
    walk(keys, session, now, STOP_WALK)
  end
  save_session(keys[1], session)
  return { 'ok', describe(session, now) }
end

-- session_seek(keys | id, ms) -> 'ok', 'missing', 'state' or 'range', and the session.
local function session_seek(keys, args)
  local now = now_ms()
  local session = settle(keys, now)
  if missing(session, args[1]) then
    return { 'missing' }
  end
  if not RESTING[session.status] then
    return { 'state', describe(session, now) }
  end
  local target = number(args[2])
  if target < session.start or target > session['end'] then
    return { 'range', describe(session, now) }
  end
  -- Up to here the database of an owned one has everything, or will have.
  local through = session.played == 1 and playhead(session, now) or session.event - 1
  enter_run(session, session.run + 1, target, now)
  session.touched = now
  if session.owned == 1 then
    session.resume, session.played = RESTING[session.status], 0
    request(keys, session, now, target > through and 'MSG_INIT_REQUESTED' or 'DB_INIT_REQUESTED')
    return { 'ok', describe(session, now) }
  end
  walk(keys, session, now, { session.status })
  save_session(keys[1], session)
  return { 'ok', describe(session, now) }
end

-- session_end(keys | id, or '' for whatever there is; 1 to free the lock at once, with the work of an
-- owned session undone) -> 'ok' or 'missing', and the session.
local function session_end(keys, args)
  local now = now_ms()
  local session = settle(keys, now)
  if args[1] == '' then
    redis.call('DEL', keys[4])
  end
  if not session or (args[1] ~= '' and session.id ~= args[1]) then
    return { 'missing' }
  end
  if session.owned == 0 or args[2] == '1' then
    redis.call('DEL', keys[5])
    finish(keys, session, now)
  elseif not ending(session) then
    session.event, session.wall = playhead(session, now), now
    session.touched = now
    request(keys, session, now, 'MSG_END_REQUESTED')
  end
  return { 'ok', describe(session, now) }
end

-- session_get(keys | 1 to count as somebody's interest) -> the session or nil.
local function session_get(keys, args)
  local now = now_ms()
  -- Settled first: whether it has ended by itself does not depend on who asks first.
  local session = settle(keys, now)
  if session and args[1] == '1' then
    redis.call('HSET', keys[1], 'touched', text(now))
  end
  return session and describe(session, now)
end

-- The next status of the work, with those after it that need no work. What was carried out while a verb
-- was asked for cannot be taken back: the playhead is where the work has come to.
local function advance(keys, session, now, reached)
  local part, step = parts(session)
  if step == 'REQUESTED' then
    walk(keys, session, now, { part .. '_IN_PROGRESS' })
    return
  end
  if part == 'MSG_START' or part == 'MSG_STOP' then
    session.event = math.max(session.event, math.min(reached, session['end']))
  end
  if part == 'MSG_START' then
    begin(session, now)
  end
  walk(keys, session, now, { part .. '_OK' })
  if part == 'DB_INIT' then
    walk(keys, session, now, { 'MSG_INIT_REQUESTED' })
  elseif part == 'MSG_END' then
    walk(keys, session, now, { 'DB_END_REQUESTED' })
  elseif part == 'MSG_INIT' and session.resume == STOP then
    walk(keys, session, now, STOP_WALK)
  elseif part == 'MSG_INIT' and session.resume == START then
    begin(session, now)
    walk(keys, session, now, START_WALK)
  end
  if part == 'MSG_INIT' then
    session.resume = STAY
  end
end

local function holds(lease, owner, token)
  return redis.call('GET', lease) == owner .. ' ' .. token
end

-- session_step(keys | owner, token, id, revision, why it failed or '', ms up to which it has come) -> 'ok'
-- and the session one step further, 'lost': the lease is another's, 'missing', or 'moved' and the session,
-- which is another than the owner knew. One that plays can only fail.
local function session_step(keys, args)
  local now = now_ms()
  if not holds(keys[5], args[1], args[2]) then
    return { 'lost' }
  end
  local session = settle(keys, now)
  if missing(session, args[3]) then
    return { 'missing' }
  end
  if session.revision ~= number(args[4]) or not owed(session) then
    return { 'moved', describe(session, now) }
  end
  if args[5] ~= '' then
    fail(keys, session, now, args[5])
  elseif working(session) then
    advance(keys, session, now, number(args[6]))
    if session.status == 'DB_END_OK' then
      redis.call('DEL', keys[1])
      return { 'ok', describe(session, now) }
    end
    save_session(keys[1], session)
  end
  return { 'ok', describe(session, now) }
end

-- work_take(keys, fence | owner, ms, 1 to take it where there is no session) -> 'ok', the token and the
-- session whose work is owed, 'held': somebody is at it, or 'none'.
local function work_take(keys, args)
  local now = now_ms()
  local session = settle(keys, now)
  if (session ~= nil) == (args[3] == '1') or (session and not owed(session)) then
    return { 'none' }
  end
  if redis.call('EXISTS', keys[5]) == 1 then
    return { 'held' }
  end
  local token = text(redis.call('INCR', keys[6]))
  redis.call('SET', keys[5], args[1] .. ' ' .. token, 'PX', args[2])
  return { 'ok', token, session and describe(session, now) }
end

-- work_look(keys | owner, token, ms, revision) -> extends the lease; 'ok' and the session if it has
-- changed since that revision, 'same', 'none': it is over, or 'lost'.
local function work_look(keys, args)
  if not holds(keys[5], args[1], args[2]) then
    return { 'lost' }
  end
  redis.call('PEXPIRE', keys[5], args[3])
  local now = now_ms()
  local session = settle(keys, now)
  if not session then
    return { 'none' }
  end
  if session.revision == number(args[4]) then
    return { 'same' }
  end
  return { 'ok', describe(session, now) }
end

-- work_leave(keys | owner, token) -> gives the lease back and says 'none', or 'ok' and the session: there
-- is work again. 'lost' when it was no more this holder's.
local function work_leave(keys, args)
  if not holds(keys[5], args[1], args[2]) then
    return { 'lost' }
  end
  local now = now_ms()
  local session = settle(keys, now)
  if session and owed(session) then
    return { 'ok', describe(session, now) }
  end
  redis.call('DEL', keys[5])
  return { 'none' }
end

-- lease_take(record, feed, meta, lease, work, fence | owner, ms) -> 'ok' and the token, 'active' and the
-- session that holds the lock, or 'one_shot'. Tokens only grow: the counter never expires.
local function lease_take(keys, args)
  local now = now_ms()
  local session = settle(keys, now)
  if session then
    return { 'active', describe(session, now) }
  end
  if redis.call('EXISTS', keys[4]) == 1 then
    return { 'one_shot' }
  end
  local token = text(redis.call('INCR', keys[6]))
  redis.call('SET', keys[4], args[1] .. ' ' .. token, 'PX', args[2])
  return { 'ok', token }
end

-- lease_renew(lease | owner, token, ms) -> 1 when it was still this holder's.
local function lease_renew(keys, args)
  if redis.call('GET', keys[1]) ~= args[1] .. ' ' .. args[2] then
    return 0
  end
  return redis.call('PEXPIRE', keys[1], args[3])
end

-- lease_release(lease | owner, token) -> 1 when it was still this holder's.
local function lease_release(keys, args)
  if redis.call('GET', keys[1]) ~= args[1] .. ' ' .. args[2] then
    return 0
  end
  return redis.call('DEL', keys[1])
end

redis.register_function('append_@DIGEST@', append)
redis.register_function('append_changes_@DIGEST@', append_changes)
redis.register_function('head_@DIGEST@', head)
redis.register_function('at_sequence_@DIGEST@', at_sequence)
redis.register_function('delete_@DIGEST@', delete)
redis.register_function('wipe_@DIGEST@', wipe)
redis.register_function('trim_@DIGEST@', trim)
redis.register_function('selected_@DIGEST@', selected)
redis.register_function('confirm_@DIGEST@', confirm)
redis.register_function('session_init_@DIGEST@', session_init)
redis.register_function('session_start_@DIGEST@', session_start)
redis.register_function('session_stop_@DIGEST@', session_stop)
redis.register_function('session_seek_@DIGEST@', session_seek)
redis.register_function('session_end_@DIGEST@', session_end)
redis.register_function('session_get_@DIGEST@', session_get)
redis.register_function('session_step_@DIGEST@', session_step)
redis.register_function('work_take_@DIGEST@', work_take)
redis.register_function('work_look_@DIGEST@', work_look)
redis.register_function('work_leave_@DIGEST@', work_leave)
redis.register_function('lease_take_@DIGEST@', lease_take)
redis.register_function('lease_renew_@DIGEST@', lease_renew)
redis.register_function('lease_release_@DIGEST@', lease_release)
