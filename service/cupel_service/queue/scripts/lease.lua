-- A slot takes a job off RQ's hands. ARGV: job, holder, lease_ms.
-- Returns: nothing if it is somebody else's or done, or whether it runs alone, whether it has taken
-- down too many workers to be run, and each open index with its ticket.
local job, holder = ARGV[1], ARGV[2]
redis.call('LREM', QUEUE .. ':intermediate', 1, job)
redis.call('DEL', JOB .. job)
local batch, chunk, attempt = parts_of(job)
local content = chunk_of(batch, chunk, attempt)
if not content or (content.holder and content.holder ~= holder) then return {} end
local open = content.indices
if attempt > 1 then open = open_of(batch, open) end
if #open == 0 then
  redis.call('HDEL', key('chunks', batch), chunk)
  return {}
end
content.holder = holder
write_chunk(batch, chunk, content)
redis.call('ZADD', P .. ':leases', now_ms() + ARGV[3], job)
local found = {content.alone and 1 or 0, content.poison and 1 or 0}
local tickets = redis.call('HMGET', key('tickets', batch), unpack(open))
for place, index in ipairs(open) do
  found[#found + 1] = tostring(index)
  found[#found + 1] = tickets[place]
end
return found
