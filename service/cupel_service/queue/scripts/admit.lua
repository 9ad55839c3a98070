-- Takes a whole request, or says why not. Asked twice for the same batch it does nothing more.
-- ARGV: batch, key, digest, api, capacity, bytes_max, request_bytes, result_bytes,
--       attached_ms, abandoned_ms, kept_ms, due_ms, numbers of tickets, problems and chunks,
--       then each ticket, each problem's digest and body, each chunk's indices as JSON.
-- Returns: admitted | known, batch, digest, size | full, submissions | heavy, bytes.
local batch, name, digest, api = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local request_bytes, result_bytes = tonumber(ARGV[7]), tonumber(ARGV[8])
local tickets, problems, chunks = tonumber(ARGV[13]), tonumber(ARGV[14]), tonumber(ARGV[15])

if redis.call('EXISTS', key('batch', batch)) == 1 then return {'admitted'} end
if name ~= '' then
  local known = redis.call('GET', key('key', name))
  if known then
    attend(known, api, ARGV[9], ARGV[10])
    local record = redis.call('HMGET', key('batch', known), 'digest', 'size')
    return {'known', known, record[1], record[2]}
  end
end

local load = redis.call('HMGET', P .. ':load', 'submissions', 'bytes')
local submissions = tonumber(load[1] or 0)
if submissions + tickets > tonumber(ARGV[5]) then return {'full', submissions} end
local bytes = tonumber(load[2] or 0)
local added = request_bytes + result_bytes
if bytes > 0 and bytes + added > tonumber(ARGV[6]) then
  -- What is finished goes before its time, rather than that work is turned down.
  for _, old in ipairs(redis.call('ZRANGE', P .. ':finished', 0, 99)) do
    forget(old)
    bytes = tonumber(redis.call('HGET', P .. ':load', 'bytes') or 0)
    if bytes + added <= tonumber(ARGV[6]) then break end
  end
  if bytes > 0 and bytes + added > tonumber(ARGV[6]) then return {'heavy', bytes} end
end

local now = now_ms()
redis.call('HSET', key('batch', batch), 'key', name, 'digest', digest, 'size', tickets,
  'request_bytes', request_bytes, 'result_bytes', result_bytes, 'kept_ms', ARGV[11],
  'next_chunk', chunks)
if name ~= '' then redis.call('SET', key('key', name), batch) end
local at = 15
for first = 0, tickets - 1, SLICE do
  local indices, pairs_ = {}, {}
  for index = first, math.min(first + SLICE, tickets) - 1 do
    indices[#indices + 1] = index
    pairs_[#pairs_ + 1] = index
    pairs_[#pairs_ + 1] = ARGV[at + 1 + index]
  end
  redis.call('SADD', key('open', batch), unpack(indices))
  redis.call('HSET', key('tickets', batch), unpack(pairs_))
end
at = at + tickets
for problem = 0, problems - 1 do
  redis.call('HSET', key('problems', batch), ARGV[at + 1 + 2 * problem], ARGV[at + 2 + 2 * problem])
end
at = at + 2 * problems
for first = 0, chunks - 1, SLICE do
  local contents, due = {}, {}
  for chunk = first, math.min(first + SLICE, chunks) - 1 do
    contents[#contents + 1] = chunk
    contents[#contents + 1] = '{"attempt":1,"losses":0,"indices":' .. ARGV[at + 1 + chunk] .. '}'
    due[#due + 1] = now + ARGV[12]
    due[#due + 1] = job_of(batch, chunk, 1)
  end
  redis.call('HSET', key('chunks', batch), unpack(contents))
  redis.call('ZADD', P .. ':due', unpack(due))
end
count_load(tickets, added)
attend(batch, api, ARGV[9], ARGV[10])
return {'admitted'}
