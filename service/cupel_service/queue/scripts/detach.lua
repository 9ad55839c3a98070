-- An API process has no more clients for a batch. 
-- ARGV: batch, api, attached_ms, abandoned_ms.
local batch, record, now = ARGV[1], key('batch', ARGV[1]), now_ms()
redis.call('HDEL', record, 'at:' .. ARGV[2])
local known = redis.call('HMGET', record, 'key', 'finished_at', 'kept_ms')
if not known[1] then return 0 end
local fields = redis.call('HGETALL', record)
for place = 1, #fields, 2 do
  local elsewhere = string.sub(fields[place], 1, 3) == 'at:'
  if elsewhere and now - fields[place + 1] < tonumber(ARGV[3]) then return 0 end
end
if known[1] == '' then
  forget(batch)
elseif known[2] then
  redis.call('ZADD', P .. ':batches', known[2] + known[3], batch)
else
  redis.call('ZADD', P .. ':batches', now + ARGV[4], batch)
end
return 1
