-- A worker that stops gives a job back: the next attempt is due, and no loss is counted.
-- ARGV: job. Returns: the next attempt's job, or nothing if it was not its own any more.
local batch, chunk, attempt = parts_of(ARGV[1])
local content = chunk_of(batch, chunk, attempt)
if redis.call('ZREM', P .. ':leases', ARGV[1]) == 0 or not content then return false end
return make_due(batch, chunk, content, now_ms())
