for _, id in ipairs(redis.call('SMEMBERS', space .. 'o:' .. owner)) do
  redis.call('HDEL', key(id), 'l:' .. owner, 'w:' .. owner)
end
redis.call('DEL', space .. 'o:' .. owner)
redis.call('ZREM', space .. 'owners', owner)
return {'OK'}
