-- Every request another structure: a random native one of the first model's, and one time in four with one part of it
-- converted. What the model can run it is asked first, GET /v1/structures. Prompts have 4 to 20 words and 4 to 32 new
-- tokens follow, or less where the model's context ends.
local common = require('common')
setup, done = common.setup, common.done
local words = { 'grain', 'stone', 'water', 'wheel', 'flour', 'river', 'bread', 'miller', 'slow', 'turning' }
local slots = { 'attention', 'ffn', 'sharing' }
local parts -- [slot].native, [slot].converted: names; nil until the answer is there
local half -- of the context, in tokens; a prompt has at most one for each byte, and a beginning

init = function(args)
  common.init()
  math.randomseed(tonumber(args[1]) or 1)
end

local function learn(body)
  local first = body:match('^(.-"structures":.-)"model":') or body
  local found = {}
  for _, slot in ipairs(slots) do found[slot] = { native = {}, converted = {} } end
  for slot, row in first:gmatch('"slot":"(%l+)"(.-"rollback")') do
    local name, how = row:match('"type":"([%l%d_]+)"'), row:match('"exactness":"(%l+)"')
    if how ~= 'unavailable' and not row:find('"causal":false', 1, true) then
      local list = found[slot][row:find('"origin":"converted"', 1, true) and 'converted' or 'native']
      list[#list + 1] = name
    end
  end
  half = math.floor(tonumber(first:match('"context":(%d+)')) / 2)
  return found
end

response = function(status, headers, body)
  if not parts and status == 200 then parts = learn(body) end
  common.response(status, headers, body)
end

request = function()
  if not parts then return wrk.format('GET', '/v1/structures') end
  local text, structure = {}, ''
  for i = 1, math.random(4, 20) do text[i] = words[math.random(#words)] end
  local other = math.random(12) -- 1 to 3: the slot that takes a conversion
  for i, slot in ipairs(slots) do
    local list = parts[slot].native
    if i == other and #parts[slot].converted > 0 then list = parts[slot].converted end
    structure = structure .. string.format('"%s":"%s",', slot, list[math.random(#list)])
  end
  return common.infer(string.format('{"sequence":"%s",%s"convert":true,"max_tokens":%d}',
    table.concat(text, ' '):sub(1, half - 1), structure, math.random(4, math.min(32, half))))
end
