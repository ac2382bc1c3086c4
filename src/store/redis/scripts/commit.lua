-- Puts a rebuilt epoch in force. ARGV[1] is the epoch, ARGV[2] for how long nothing is leased, in microseconds (0 for a first start).
if redis.call('GET', KEYS[1] .. ':rebuilt') ~= ARGV[1] then return {'LATE'} end
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local life = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local hold, lost = 0, 0
if ARGV[2] ~= '0' then hold, lost = now + tonumber(ARGV[2]), now end
redis.call('SET', KEYS[1], string.format('%s|%s|%.0f|%.0f', ARGV[1], life, hold, lost))
redis.call('DEL', KEYS[1] .. ':rebuilt')
return {'OK'}
