-- Jobs that should stand in RQ's queue and may not: for the caller to enqueue, who is asked again
-- for them after claim_ms if that failed. ARGV: claim_ms, the most jobs to give. Returns: jobs.
local now, jobs = now_ms(), {}
local due = redis.call('ZRANGEBYSCORE', P .. ':due', '-inf', now, 'LIMIT', 0, ARGV[2])
for _, job in ipairs(due) do
  local content = chunk_of(parts_of(job))
  if content and not content.holder then
    redis.call('ZADD', P .. ':due', now + ARGV[1], job)
    jobs[#jobs + 1] = job
  else
    redis.call('ZREM', P .. ':due', job)
  end
end
return jobs
