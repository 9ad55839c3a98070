-- An API process stops: finds what of a batch has not started. Without a key nobody else can ask for
-- it, so that it is dropped. ARGV: batch. Returns: the indices of what has not started.
local batch, waiting = ARGV[1], {}
local keyed = redis.call('HGET', key('batch', batch), 'key') ~= ''
local chunks = redis.call('HGETALL', key('chunks', batch))
for place = 1, #chunks, 2 do
  local content = cjson.decode(chunks[place + 1])
  if not content.holder then
    local open = open_of(batch, content.indices)
    for _, index in ipairs(open) do waiting[#waiting + 1] = tostring(index) end
    if not keyed then
      remove_job(job_of(batch, chunks[place], content.attempt))
      redis.call('HDEL', key('chunks', batch), chunks[place])
      if #open > 0 then
        redis.call('SREM', key('open', batch), unpack(open))
        count_load(-#open, 0)
      end
    end
  end
end
return waiting
