-- Batches that nobody waits for any more, and finished ones that were kept long enough.
-- ARGV: the most batches to look at. Returns: each that had work left, for the log.
local dropped = {}
local past = redis.call('ZRANGEBYSCORE', P .. ':batches', '-inf', now_ms(), 'LIMIT', 0, ARGV[1])
for _, batch in ipairs(past) do
  if redis.call('SCARD', key('open', batch)) > 0 then dropped[#dropped + 1] = batch end
  forget(batch)
end
return dropped
