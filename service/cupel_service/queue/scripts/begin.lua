-- A job that runs alone starts: from now on its worker's death counts against it. ARGV: job.
-- Returns: 1 if the lease is still held.
local batch, chunk, attempt = parts_of(ARGV[1])
local content = chunk_of(batch, chunk, attempt)
if not content or not redis.call('ZSCORE', P .. ':leases', ARGV[1]) then return 0 end
content.begun = true
write_chunk(batch, chunk, content)
return 1
