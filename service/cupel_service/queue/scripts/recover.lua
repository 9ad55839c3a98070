-- Nothing waits in RQ's queue, nothing runs and nothing is due, and yet submissions are open: somebody
-- has emptied RQ's queue by hand. Makes all of it due again. Returns: how many chunks.
if redis.call('LLEN', QUEUE) > 0 or redis.call('LLEN', QUEUE .. ':intermediate') > 0
  or redis.call('ZCARD', P .. ':leases') > 0 or redis.call('ZCARD', P .. ':due') > 0
  or tonumber(redis.call('HGET', P .. ':load', 'submissions') or 0) == 0 then
  return 0
end
local now, count = now_ms(), 0
for _, batch in ipairs(redis.call('ZRANGE', P .. ':batches', 0, -1)) do
  local chunks = redis.call('HGETALL', key('chunks', batch))
  for place = 1, #chunks, 2 do
    make_due(batch, chunks[place], cjson.decode(chunks[place + 1]), now)
    count = count + 1
  end
end
return count
