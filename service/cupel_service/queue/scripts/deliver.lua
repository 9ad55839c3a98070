-- Writes judgements down, the first one of each submission only.
-- ARGV: job, whether these are the job's last ones, then each index with its judgement.
-- Returns: 1 if the job is still held by whoever delivers, else 0: it should drop the rest.
local job, last = ARGV[1], ARGV[2] == '1'
local batch, chunk, attempt = parts_of(job)
local held = redis.call('ZSCORE', P .. ':leases', job)
local indices, results = {}, {}
if held and attempt == 1 then
  -- Nobody else has ever held these submissions.
  for place = 3, #ARGV, 2 do indices[#indices + 1] = ARGV[place] end
  for place = 3, #ARGV do results[#results + 1] = ARGV[place] end
elseif #ARGV > 2 then
  local bodies, offered = {}, {}
  for place = 3, #ARGV, 2 do
    offered[#offered + 1] = ARGV[place]
    bodies[ARGV[place]] = ARGV[place + 1]
  end
  indices = open_of(batch, offered)
  for _, index in ipairs(indices) do
    results[#results + 1] = index
    results[#results + 1] = bodies[index]
  end
end
-- None are removed when a delivery is repeated whose answer was lost on the way.
local removed = #indices > 0 and redis.call('SREM', key('open', batch), unpack(indices)) or 0
if removed > 0 then
  redis.call('XADD', key('results', batch), '*', unpack(results))
  count_load(-removed, 0)
end
if held and last then
  redis.call('HDEL', key('chunks', batch), chunk)
  redis.call('ZREM', P .. ':leases', job)
end
if (last or not held) and redis.call('SCARD', key('open', batch)) == 0 then
  local record = key('batch', batch)
  local known = redis.call('HMGET', record, 'finished_at', 'kept_ms', 'request_bytes')
  if known[2] and not known[1] then
    local now = now_ms()
    redis.call('HSET', record, 'finished_at', now)
    redis.call('ZADD', P .. ':finished', now, batch)
    redis.call('ZADD', P .. ':batches', 'GT', now + known[2], batch)
    redis.call('DEL', key('tickets', batch), key('problems', batch), key('chunks', batch))
    count_load(0, -known[3])
  end
end
return held and 1 or 0
