"""What a program asks of a platform before its compiler has seen it: operations, loops, types."""

import functools
from typing import Any


def summary(module: Any) -> dict[str, Any]:
  """Return counts of a StableHLO module (`lowered.compiler_ir('stablehlo')`).

  `operations` with functions written out where they are called; `loops`: those in the body of each,
  in order; `calls`: what is called by name, `callbacks` of the host among them; `f64`: whether
  there are numbers of 64 bits behind the point.
  """
  functions = {each.attributes['sym_name'].value: each for each in module.body.operations}
  calls, wide = set(), False

  @functools.cache
  def of_function(name):
    return of_regions(functions[name])

  def of_regions(op):
    nonlocal wide
    count, loops = 0, ()
    for inner in (x for region in op.regions for block in region.blocks for x in block.operations):
      inner, inside = inner.operation, (0, ())
      wide = wide or any('f64' in str(result.type) for result in inner.results)
      if inner.name == 'func.call':
        inside = of_function(inner.attributes['callee'].value)
      elif inner.name.endswith(('.return', '.constant')) or inner.name == 'func.return':
        continue
      elif len(inner.regions):
        inside = of_regions(inner)
      if inner.name == 'stablehlo.custom_call':
        calls.add(inner.attributes['call_target_name'].value)
      if inner.name == 'stablehlo.while':
        inside = inside[0], (inside[0], *inside[1])
      count += inside[0] + (inner.name != 'func.call')
      loops += inside[1]
    return count, loops

  operations, loops = of_function('main')
  callbacks = sorted(name for name in calls if 'callback' in name)
  found = {'operations': operations, 'loops': list(loops), 'f64': wide}
  return found | {'calls': sorted(calls), 'callbacks': callbacks}
