-- A worker process is alive. ARGV: name, record, record_ms, lease_ms, jobs.
-- Returns: those of its jobs that are not its own any more.
redis.call('SET', key('worker', ARGV[1]), ARGV[2], 'PX', ARGV[3])
redis.call('SADD', P .. ':workers', ARGV[1])
local lost = {}
if #ARGV < 5 then return lost end
local until_ms, jobs = now_ms() + ARGV[4], {}
for place = 5, #ARGV do jobs[#jobs + 1] = ARGV[place] end
local scores = redis.call('ZMSCORE', P .. ':leases', unpack(jobs))
local renewed = {}
for place, job in ipairs(jobs) do
  if scores[place] then
    renewed[#renewed + 1] = until_ms
    renewed[#renewed + 1] = job
  else
    lost[#lost + 1] = job
  end
end
if #renewed > 0 then redis.call('ZADD', P .. ':leases', 'XX', unpack(renewed)) end
return lost
