-- The ground of every script. KEYS[1] is the key of the epoch; ARGV[1] the epoch that the caller knows; ARGV[2] its owner.
-- Numbers are doubles: exact up to 2^53. Beyond that (9 million dollars in nano-dollars) what is free is counted 4096 less.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local second = tonumber(clock[1])
local EXACT = 9007199254740992

local function text(number) return string.format('%.0f', number) end

-- The epoch names the life of the server in which the counters were put there. Another life may have lost some of them.
local epoch = redis.call('GET', KEYS[1])
if not epoch then return {'LOST'} end
local nonce, life, hold, lost_at = string.match(epoch, '^(%w+)|(%w+)|(%d+)|(%d+)$')
if life ~= string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') then return {'LOST'} end
if nonce ~= ARGV[1] then return {'EPOCH', nonce} end
hold, lost_at = tonumber(hold), tonumber(lost_at)

local space = string.sub(KEYS[1], 1, -6) .. nonce .. ':'
local owner = ARGV[2]

local function key(id) return space .. 'c:' .. id end

-- The kind of the window, and its numbers.
local function window(id)
  local word = string.match(id, '^[^|]*|([^|]*)|')
  local kind = string.sub(word, 1, 1)
  if kind == 'c' then
    local from, till = string.match(word, '^c(%-?%d+)%-(%-?%d+)$')
    return kind, tonumber(from), tonumber(till)
  end
  return kind, tonumber(string.sub(word, 2)), nil
end

-- Adds a whole number given as text; at the end of the range it stays there.
local function add(id, field, amount)
  local done = redis.pcall('HINCRBY', key(id), field, amount)
  if type(done) == 'table' and done.err then redis.call('HSET', key(id), field, '9223372036854775807') end
end

-- What lies in the future was written by a clock that has been put back since: it was spent now at the latest.
local function bring_back(counter, ahead)
  if #ahead == 0 then return end
  local present
  for _, bucket in ipairs(counter.buckets) do
    if bucket[1] == second then present = bucket end
  end
  if not present then
    present = {second, 0}
    counter.buckets[#counter.buckets + 1] = present
  end
  for _, bucket in ipairs(ahead) do
    redis.call('HDEL', key(counter.id), bucket[1])
    add(counter.id, 'b:' .. text(second), bucket[2])
    present[2] = present[2] + tonumber(bucket[2])
    counter.spent = counter.spent + tonumber(bucket[2])
  end
end

-- Reads a counter; what has left its window is dropped.
local function load(id)
  local kind, from, till = window(id)
  local counter = {id = id, kind = kind, from = from, till = till, cap = 0, spent = 0, leased = 0, own = 0, leases = {},
                   buckets = {}, wanted = {}, exists = false}
  local fields = redis.call('HGETALL', key(id))
  local stale, ahead = {}, {}
  for i = 1, #fields, 2 do
    counter.exists = true
    local name, value = fields[i], fields[i + 1]
    local mark = string.sub(name, 1, 2)
    if mark == 'l:' then
      local amount = tonumber(value)
      counter.leased = counter.leased + amount
      counter.leases[#counter.leases + 1] = {string.sub(name, 3), amount}
      if string.sub(name, 3) == owner then counter.own = amount end
    elseif mark == 'b:' then
      local at = tonumber(string.sub(name, 3))
      if kind == 's' and at < second - from then
        stale[#stale + 1] = name
      elseif kind == 's' and at > second then
        ahead[#ahead + 1] = {name, value}
      else
        counter.spent = counter.spent + tonumber(value)
        counter.buckets[#counter.buckets + 1] = {at, tonumber(value)}
      end
    elseif mark == 'w:' then
      if tonumber(value) > now and tonumber(value) <= now + 2000000 then
        counter.wanted[#counter.wanted + 1] = string.sub(name, 3)
      else
        stale[#stale + 1] = name
      end
    elseif name == 'spent' then
      counter.spent = counter.spent + tonumber(value)
    else
      counter[name] = tonumber(value)
    end
  end
  counter.stale = stale
  bring_back(counter, ahead)
  if counter.burst then
    local flowed = math.max(0, now - counter.at) * counter.cap / counter.period
    counter.room = math.min(counter.burst, counter.room + flowed)
    counter.spent = math.ceil(counter.burst - counter.room)
  end
  table.sort(counter.buckets, function(a, b) return a[1] < b[1] end)
  return counter
end

local function free(counter)
  local left = counter.cap - counter.spent - counter.leased
  if counter.cap > EXACT or counter.spent > EXACT or counter.leased > EXACT then left = left - 4096 end
  return left
end

-- What must be known of a counter beside itself: where it is found, and when it may go.
local function index(counter)
  local till = now / 1000000 + 86400
  if counter.kind == 'c' then till = counter.till + 86400 end
  if counter.kind ~= 't' then redis.call('ZADD', space .. 'old', till, counter.id) end
  redis.call('ZADD', space .. 'm', text(counter.spent), counter.id)
  redis.call('ZADD', space .. 'm:' .. string.match(counter.id, '^[^|]*'), text(counter.spent), counter.id)
end

local function set_lease(counter, who, amount)
  if amount > 0 then
    redis.call('HSET', key(counter.id), 'l:' .. who, text(amount))
    redis.call('SADD', space .. 'o:' .. who, counter.id)
  else
    redis.call('HDEL', key(counter.id), 'l:' .. who)
    redis.call('SREM', space .. 'o:' .. who, counter.id)
  end
end

local function lower_own(counter, amount)
  if counter.own > 0 then
    local left = math.max(0, counter.own - math.max(0, amount))
    set_lease(counter, owner, left)
    counter.leased = counter.leased - counter.own + left
    counter.own = left
  end
end

local function set_room(counter)
  redis.call('HSET', key(counter.id), 'room', string.format('%.17g', counter.room), 'at', text(now))
end
