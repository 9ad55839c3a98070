-- Jobs that RQ moved to its intermediate queue and that nobody has leased for a while: their worker
-- died, or was stopped, between the two. ARGV: after how many milliseconds.
-- Returns: how many were made due again.
local moved = redis.call('LRANGE', QUEUE .. ':intermediate', 0, -1)
local seen = P .. ':stranded'
if #moved == 0 then
  redis.call('DEL', seen)
  return 0
end
local now, there, count = now_ms(), {}, 0
for _, job in ipairs(moved) do
  there[job] = true
  local batch, chunk, attempt = parts_of(job)
  local content = chunk_of(batch, chunk, attempt)
  local first_seen = redis.call('ZSCORE', seen, job)
  if not content or content.holder then
    redis.call('LREM', QUEUE .. ':intermediate', 0, job)
    redis.call('DEL', JOB .. job)
  elseif not first_seen then
    redis.call('ZADD', seen, now, job)
  elseif now - first_seen >= tonumber(ARGV[1]) then
    redis.call('LREM', QUEUE .. ':intermediate', 0, job)
    redis.call('DEL', JOB .. job)
    make_due(batch, chunk, content, now)
    count = count + 1
  end
end
for _, job in ipairs(redis.call('ZRANGE', seen, 0, -1)) do
  if not there[job] then redis.call('ZREM', seen, job) end
end
return count
