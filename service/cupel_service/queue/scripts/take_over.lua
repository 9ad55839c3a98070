-- Jobs whose lease ran out: their worker is dead, stopped or cut off. Each is made due again.
-- The second loss splits a chunk into single submissions, which run alone in their worker; one that
-- takes its worker down even so is not run again. ARGV: the most jobs to look at.
-- Returns: for each a line of text, for the log.
local now, lines = now_ms(), {}
for _, job in ipairs(redis.call('ZRANGEBYSCORE', P .. ':leases', '-inf', now, 'LIMIT', 0, ARGV[1])) do
  redis.call('ZREM', P .. ':leases', job)
  local batch, chunk, attempt = parts_of(job)
  local content = chunk_of(batch, chunk, attempt)
  local open = content and open_of(batch, content.indices) or {}
  -- What waited for its turn to run alone has taken nothing down.
  if content and not (content.alone and not content.begun) then
    content.losses = content.losses + 1
  end
  if content and #open == 0 then
    redis.call('HDEL', key('chunks', batch), chunk)
  elseif content and content.losses == 2 and not content.alone then
    redis.call('HDEL', key('chunks', batch), chunk)
    for _, index in ipairs(open) do
      local single = redis.call('HINCRBY', key('batch', batch), 'next_chunk', 1)
      make_due(batch, tostring(single),
        {indices = {index}, attempt = attempt, losses = 2, alone = true}, now)
    end
    lines[#lines + 1] = job .. ' lost its worker twice: its ' .. #open .. ' submissions run alone'
  elseif content then
    content.indices = open
    content.poison = content.losses > 2 or nil
    make_due(batch, chunk, content, now)
    local fate = content.poison and ' took its worker down when it ran alone: judging error'
      or ' lost its worker: ' .. #open .. ' submissions are queued again'
    lines[#lines + 1] = job .. fate
  end
end
return lines
