-- Mixed lengths and structures: prompts of 4 to 400 words, 4 to 64 new tokens, native attention or exact MHA.
local common = require('common')
setup, response, done = common.setup, common.response, common.done
init = function(args)
  common.init()
  math.randomseed(tonumber(args[1]) or 1)
end
local words = { 'grain', 'stone', 'water', 'wheel', 'flour', 'river', 'bread', 'miller', 'slow', 'turning' }
request = function()
  local text = {}
  for i = 1, math.random(4, 20) * (math.random(8) == 1 and 20 or 1) do text[i] = words[math.random(#words)] end
  local attention = math.random(4) == 1 and ',"attention":"mha"' or ''
  return common.infer(string.format('{"sequence":"%s","max_tokens":%d%s}', table.concat(text, ' '), math.random(4, 64), attention))
end
