-- Asks for the right to rebuild. ARGV[1] is the new epoch. Answers the epoch that is not in force any more, if there was one.
local epoch = redis.call('GET', KEYS[1])
local nonce = ''
if epoch then
  local life
  nonce, life = string.match(epoch, '^(%w+)|(%w+)|')
  if life == string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') then return {'THERE'} end
end
if not redis.call('SET', KEYS[1] .. ':rebuilt', ARGV[1], 'NX', 'PX', 60000) then return {'LATE'} end
return {'OK', nonce}
