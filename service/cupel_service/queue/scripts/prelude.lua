-- Stands before every other script: key names, and what several of them do.
-- KEYS: the prefix of all keys, RQ's list of waiting jobs, and the prefix of RQ's jobs.
-- All times are milliseconds of Redis' own clock; nobody else's is ever compared with it.
local P, QUEUE, JOB = KEYS[1], KEYS[2], KEYS[3]
local SLICE = 1000 -- unpack() has a limited stack

local function key(kind, batch) return P .. ':' .. kind .. ':' .. batch end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A job is one attempt at one chunk of one batch.
local function job_of(batch, chunk, attempt)
  return batch .. '-' .. chunk .. '-' .. string.format('%d', attempt)
end

local function parts_of(job)
  local batch, chunk, attempt = string.match(job, '^(%x+)%-(%d+)%-(%d+)$')
  return batch, chunk, tonumber(attempt)
end

-- The chunk that a job stands for, unless a later attempt has replaced it.
local function chunk_of(batch, chunk, attempt)
  local text = batch and redis.call('HGET', key('chunks', batch), chunk)
  local found = text and cjson.decode(text)
  if found and found.attempt == attempt then return found end
end

local function write_chunk(batch, chunk, content)
  redis.call('HSET', key('chunks', batch), chunk, cjson.encode(content))
end

-- Makes the next attempt at a chunk, to be enqueued by whoever sees it first. Its job's name.
local function make_due(batch, chunk, content, due_ms)
  content.attempt, content.holder, content.begun = content.attempt + 1, nil, nil
  write_chunk(batch, chunk, content)
  local job = job_of(batch, chunk, content.attempt)
  redis.call('ZADD', P .. ':due', due_ms, job)
  return job
end

-- Those of a chunk's indices that have no judgement yet.
local function open_of(batch, indices)
  local found = {}
  local is_open = redis.call('SMISMEMBER', key('open', batch), unpack(indices))
  for place, index in ipairs(indices) do
    if is_open[place] == 1 then found[#found + 1] = index end
  end
  return found
end

local function count_load(submissions, bytes)
  if submissions ~= 0 then redis.call('HINCRBY', P .. ':load', 'submissions', submissions) end
  if bytes ~= 0 then redis.call('HINCRBY', P .. ':load', 'bytes', bytes) end
end

local function remove_job(job)
  redis.call('ZREM', P .. ':leases', job)
  redis.call('ZREM', P .. ':due', job)
  redis.call('LREM', QUEUE, 0, job)
  redis.call('DEL', JOB .. job)
end

-- Removes all of a batch. Whoever works on it finds its lease gone.
local function forget(batch)
  local record = key('batch', batch)
  local known = redis.call('HMGET', record, 'key', 'request_bytes', 'result_bytes', 'finished_at')
  local chunks = redis.call('HGETALL', key('chunks', batch))
  for place = 1, #chunks, 2 do
    remove_job(job_of(batch, chunks[place], cjson.decode(chunks[place + 1]).attempt))
  end
  if known[2] then
    local bytes = known[3] + (known[4] and 0 or known[2])
    count_load(-redis.call('SCARD', key('open', batch)), -bytes)
    if known[1] ~= '' and redis.call('GET', key('key', known[1])) == batch then
      redis.call('DEL', key('key', known[1]))
    end
  end
  redis.call('DEL', record, key('open', batch), key('tickets', batch), key('problems', batch),
    key('chunks', batch), key('results', batch))
  redis.call('ZREM', P .. ':batches', batch)
  redis.call('ZREM', P .. ':finished', batch)
end

-- Somebody waits for a batch, or did a moment ago: keeps it for a while.
local function attend(batch, api, attached_ms, abandoned_ms)
  local record, now = key('batch', batch), now_ms()
  local name = redis.call('HGET', record, 'key')
  if not name then return false end
  redis.call('HSET', record, 'at:' .. api, now)
  local kept_ms = attached_ms + (name == '' and 0 or abandoned_ms)
  redis.call('ZADD', P .. ':batches', 'GT', now + kept_ms, batch)
  return true
end
