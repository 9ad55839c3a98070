-- Finds a batch by the name that its client gave it. 
-- ARGV: key, api, attached_ms, abandoned_ms.
-- Returns: nothing, or batch, digest, size.
local batch = redis.call('GET', key('key', ARGV[1]))
if not batch then return {} end
attend(batch, ARGV[2], ARGV[3], ARGV[4])
local record = redis.call('HMGET', key('batch', batch), 'digest', 'size')
return {batch, record[1], record[2]}
