"""Programs for accelerators that are not there: what is read of compiled ones, and what JAX asks
for of every method.
"""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from harmony_jax.benchmarking import compiled, hlo, patience, stablehlo
from harmony_jax.benchmarking.chips import CHIPS
from harmony_jax.benchmarking.programs import Program, programs
from harmony_jax.benchmarking.subject import Subject
from harmony_jax.errors import UserError
from tests import commands, small

H100, SUITE = CHIPS['h100'], common.suite('reach')

# As XLA writes it for GPUs (A, B, C) and TPUs (D): a product in a fusion, a row stored in a stack,
# a loop that tells how often it goes round and one that does not, a branch, a gradient.
TEXT = """HloModule jit_step, is_scheduled=true

%product (p: bf16[4,8], q: bf16[8,16]) -> f32[4,16] {
  %p = bf16[4,8]{1,0} parameter(0)
  %q = bf16[8,16]{1,0} parameter(1)
  ROOT %dot.1 = f32[4,16]{1,0} dot(%p, %q), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%store (stack: f32[10,4,16], row: f32[4,16], at: s32[]) -> f32[10,4,16] {
  %stack = f32[10,4,16]{2,1,0} parameter(0)
  %row = f32[4,16]{1,0} parameter(1)
  %at = s32[] parameter(2)
  %one = f32[1,4,16]{2,1,0} bitcast(%row)
  ROOT %stored = f32[10,4,16]{2,1,0} dynamic-update-slice(%stack, %one, %at, %at, %at)
}

%body (t: (s32[], f32[10,4,16])) -> (s32[], f32[10,4,16]) {
  %t = (s32[], f32[10,4,16]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %s = f32[10,4,16]{2,1,0} get-tuple-element(%t), index=1
  %a = bf16[4,8]{1,0} custom-call(), custom_call_target="made", /*index=1*/ metadata={}
  %b = bf16[8,16]{1,0} constant({...})
  %A = f32[4,16]{1,0} fusion(%a, %b), kind=kCustom, calls=%product
  %B = f32[10,4,16]{2,1,0} fusion(%s, %A, %i), kind=kLoop, calls=%store
  ROOT %u = (s32[], f32[10,4,16]{2,1,0}) tuple(%i, %B)
}

%condition (t.1: (s32[], f32[10,4,16])) -> pred[] {
  %t.1 = (s32[], f32[10,4,16]{2,1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%t.1), index=0
  %most = s32[] constant(7)
  ROOT %less = pred[] compare(%i.1, %most), direction=LT
}

%few (x: f32[8]) -> f32[8] {
  ROOT %x = f32[8]{0} parameter(0)
}

%many (y: f32[8]) -> f32[8] {
  %y = f32[8]{0} parameter(0)
  ROOT %z = f32[8]{0} negate(%y)
}

ENTRY %main (x.1: f32[2,16,16,3], g: f32[2,7,7,5], r: (s32[], f32[10,4,16]), v: f32[8]) -> f32[] {
  %x.1 = f32[2,16,16,3]{3,2,1,0} parameter(0)
  %g = f32[2,7,7,5]{3,2,1,0} parameter(1)
  %r = (s32[], f32[10,4,16]{2,1,0}) parameter(2)
  %v = f32[8]{0} parameter(3)
  %C = (f32[4,4,3,5]{3,2,1,0}, u8[64]{0}) custom-call(%x.1, %g), window={size=4x4 stride=2x2}, \
dim_labels=b01f_01io->b01f, custom_call_target="__cudnn$convBackwardFilter"
  %first = (s32[], f32[10,4,16]{2,1,0}) while(%r), condition=%condition, body=%body, \
metadata={op_name="jit(step)/jvp()/while"}, backend_config={"known_trip_count":{"n":"10"}}
  %second = (s32[], f32[10,4,16]{2,1,0}) while(%first), condition=%condition, body=%body, \
metadata={op_name="jit(step)/transpose(jvp())/while"}
  %p.1 = pred[] constant(true)
  %chosen = f32[8]{0} conditional(%p.1, %v, %v), true_computation=%many, false_computation=%few
  %D = (f32[8]{0:T(256)S(1)}, f32[8]{0:T(256)}, u32[]) copy-start(%chosen)
  %near = f32[8]{0:T(256)S(1)} copy-done(%D)
  %sum = f32[8]{0:T(256)} all-reduce(%near), replica_groups={{0,1}}, to_apply=%few
  ROOT %end = f32[] slice(%sum), slice={[0:1]}
}
"""


def test_kernels_counted_by_hand():
  kernels = list(hlo.Program(TEXT).kernels())
  assert [k.it.name for k in kernels] == ['C', *'aABaABzD', 'sum', 'end'], kernels
  by_name = {k.it.name: k for k in kernels[:4] + kernels[-4:]}
  outside = hlo.OUTSIDE
  assert (
    by_name['C'].flops == {'f32': 2 * 2 * 3 * 5 * (7 * 4) ** 2} and by_name['C'].part == outside
  )
  assert by_name['C'].bytes == 4 * (2 * 16 * 16 * 3 + 2 * 7 * 7 * 5 + 4 * 4 * 3 * 5) + 64
  assert by_name['A'].flops == {'bf16': 2 * 4 * 8 * 16} and by_name['A'].runs == 10
  assert by_name['B'].bytes == 4 + 2 * 4 * 4 * 16  # a row, not the stack
  assert by_name['D'].prefetch and by_name['D'].bytes == 4 * 8
  assert by_name['sum'].bytes == 4 * 8  # it reads fast memory
  assert [k.runs for k in kernels[4:7]] == [7, 7, 7]
  assert 'backward' in kernels[4].part and 'backward' not in kernels[1].part


def test_of_branches_the_one_with_most_runs_counts():
  """One loops over three kernels before another, the other one has five."""
  loop = '  %w = (s32[], f32[10,4,16]{2,1,0}) while(%y), condition=%condition, body=%body\n'
  five = ''.join(f'  %n{at} = f32[8]{{0}} negate(%x)\n' for at in range(5))
  text = TEXT.replace('  ROOT %z', f'{loop}  ROOT %z').replace('  ROOT %x', f'{five}  ROOT %x')
  runs = [kernel.runs for kernel in hlo.Program(text).kernels()]
  assert runs[7:-3] == [7, 7, 7, 1], runs


def test_a_kernel_of_ours_says_what_it_does():
  told = r'{\22bytes\22: \2296\22, \22flops\22: \22512\22, \22kind\22: \22bf16\22}'
  inner = f'backend_config={{name = "body", serialized_metadata = "{told}"}}'
  line = f'  ROOT %k = f32[64,8]{{1,0}} custom-call(%p), custom_call_target="ours", {inner}'
  parameter = '  %p = f32[64,8]{1,0} parameter(0)'
  [kernel] = hlo.Program(f'ENTRY %main (p: f32[8]) -> f32[8] {{\n{parameter}\n{line}\n}}').kernels()
  assert kernel.bytes == 96 and kernel.flops == {'bf16': 512.0}
  told = '{\n"flops":"512",\n"kind":"f32",\n"spent":"4096"\n}'
  line = line.split('"ours"')[0] + f'"tpu_custom_call", frontend={{kernel_metadata={told}}}'
  [kernel] = hlo.Program(f'ENTRY %main (p: f32[8]) -> f32[8] {{\n{parameter}\n{line}\n}}').kernels()
  assert kernel.bytes == 4 * 2 * 64 * 8 and kernel.flops == {'f32': 512.0}
  assert kernel.spent == {'f32': 4096.0}


PIECE = """
%fused (a: bf16[8], b: f32[24], mu: f32[32], p: f32[4]) -> f32[4] {
  %a = bf16[8]{0} parameter(0)
  %b = f32[24]{0} parameter(1)
  %mu = f32[32]{0} parameter(2)
  %p = f32[4]{0} parameter(3)
  %wide = f32[8]{0} convert(%a)
  %all = f32[32]{0} concatenate(%wide, %b), dimensions={0}
  %squared = f32[32]{0} multiply(%all, %all)
  %moved = f32[32]{0} add(%mu, %squared)
  %piece = f32[4]{0} slice(%moved), slice={[12:16]}
  ROOT %after = f32[4]{0} add(%p, %piece)
}

ENTRY %main (a.1: bf16[8], b.1: f32[24], mu.1: f32[32], p.1: f32[4]) -> f32[4] {
  %a.1 = bf16[8]{0} parameter(0)
  %b.1 = f32[24]{0} parameter(1)
  %mu.1 = f32[32]{0} parameter(2)
  %p.1 = f32[4]{0} parameter(3)
  ROOT %k = f32[4]{0} fusion(%a.1, %b.1, %mu.1, %p.1), kind=kLoop, calls=%fused
}
"""


def test_a_piece_of_a_vector_needs_that_piece_of_what_it_is_made_of():
  [kernel] = hlo.Program(PIECE).kernels()
  gradients = 2 * 1 + 4 * 3  # 4 of 32 numbers, in the proportion of 8 and 24
  assert kernel.bytes == gradients + 4 * 4 + 4 * 4 + 4 * 4  # of mu and p, and what is written
  summed = PIECE.replace('%after = f32[4]{0} add(%p, %piece)', '%sum = f32[] reduce(%moved, %p)')
  [kernel] = hlo.Program(summed).kernels()
  assert kernel.bytes == 2 * 8 + 4 * 24 + 4 * 32 + 4 * 4 + 4  # all of it


ROWS = """HloModule rows

%fused (x: f32[8,4]) -> f32[2,4] {
  %x = f32[8,4]{1,0} parameter(0)
  %none = f32[] constant(0)
  %sum = f32[8]{0} reduce(%x, %none), dimensions={1}, to_apply=%add
  %sums = f32[8,4]{1,0} broadcast(%sum), dimensions={0}
  %less = f32[8,4]{1,0} subtract(%x, %sums)
  ROOT %some = f32[2,4]{1,0} slice(%less), slice={[2:4], [0:4]}
}

ENTRY %main (x.1: f32[8,4]) -> f32[2,4] {
  %x.1 = f32[8,4]{1,0} parameter(0)
  ROOT %k = f32[2,4]{1,0} fusion(%x.1), kind=kLoop, calls=%fused
}
"""


@pytest.mark.parametrize(
  'part, rows',
  [
    ('f32[2,4] slice(%less), slice={[2:4], [0:4]}', 2),  # a seed's part of what seeds share
    ('f32[8,1] slice(%less), slice={[0:8], [1:2]}', 8),  # a sum is of all columns
    ('f32[2,4] reduce(%less, %none), dimensions={0}, to_apply=%add', 8),
  ],
)
def test_rows_need_those_rows_of_what_they_are_made_of(part, rows):
  text = ROWS.replace('f32[2,4]{1,0} slice(%less), slice={[2:4], [0:4]}', part)
  [kernel] = hlo.Program(text).kernels()
  assert kernel.bytes == 4 * (4 * rows + 8)


def test_figures_add_up():
  found = compiled.figures(TEXT, H100)
  assert found['kernels'] == 1 + 3 * 17 + 3 and found['collectives'] == {'all-reduce': 1}
  parts = found['parts'].values()
  for name in ('kernels', 'flops', 'bytes', 'floor_ms'):
    assert found[name] == pytest.approx(sum(part[name] for part in parts))
  assert found['floor_ms'] == pytest.approx(1e3 * found['kernels'] * H100.latency)  # all are small
  assert [part['runs'] for part in parts] == [1, 10, 7]
  assert H100.seconds({'f32': 495e9, 'bf16': 989e9}, 0) == pytest.approx(2e-3)
  assert H100.seconds({}, 3_350_000_000) == pytest.approx(1e-3)


def program(function, *shapes):
  given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  return hlo.Program(jax.jit(function).lower(*given).compile().as_text())


def test_a_loop_of_this_machines_compiler():
  def loop(x, w):
    step = lambda x, _: (jnp.tanh(x @ w), x)
    return jax.lax.scan(step, x, length=6)

  kernels = list(program(loop, (5, 7), (7, 7)).kernels())
  products = [k for k in kernels if k.flops]
  assert [(k.runs, k.flops) for k in products] == [(6, {'f32': 2 * 5 * 7 * 7})]
  stores = [k.bytes for k in kernels if 'update' in k.it.name]
  assert stores and max(stores) < 3 * 4 * 5 * 7  # a row of six


@pytest.mark.parametrize('padding, places', [('VALID', 7 * 4), ('SAME', 8 * 4 - 2)])
def test_convolutions_and_their_gradients_have_the_same_pairs(padding, places):
  axes = ('NHWC', 'HWIO', 'NHWC')

  def both(x, w):
    y = lambda x, w: jax.lax.conv_general_dilated(x, w, (2, 2), padding, dimension_numbers=axes)
    return jax.grad(lambda x, w: (y(x, w) ** 2).sum(), (0, 1))(x, w)

  found = program(both, (2, 16, 16, 3), (4, 4, 3, 8)).kernels()
  flops = [sum(k.flops.values()) for k in found if k.flops]
  assert flops == [2 * 2 * 3 * 8 * places**2] * 3


def lowered(function, *shapes, platform='cuda'):
  given = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
  made = Program(jax.jit(function), tuple(given), {}).lower(platform)
  return stablehlo.summary(made.compiler_ir('stablehlo'))


def test_what_a_compiler_must_not_be_asked_for_is_seen():
  def loop(x):
    return jax.lax.scan(lambda x, _: (jnp.sin(x) * 2, None), x, length=3)[0]

  assert lowered(loop, (4,))['loops'] == [lowered(loop, (9,))['loops'][0]]
  fine = lowered(lambda x: loop(x) + loop(x), (4,))
  assert len(fine['loops']) == 2 and not fine['f64'] and not fine['callbacks']
  calling = lambda x: jax.pure_callback(np.sin, jax.ShapeDtypeStruct((4,), np.float32), x)
  assert lowered(calling, (4,), platform='cpu')['callbacks']  # elsewhere it is not even lowered
  with jax.enable_x64(True):
    assert lowered(lambda x: x.astype(np.float64) + 1, (4,))['f64']


# Of an update and an action at the tests' sizes, lowered for GPUs and TPUs in one module: at most
# so many operations, and in the body of each loop. They are of JAX 0.10; 0.11.2 has up to an eighth
# more of the same programs.
MORE = 1.0 if jax.__version__.startswith('0.10.') else 1.15
# A loop over a sequence does four of its steps at a time. Its way back makes norms anew: more
# operations (1,230 before), of which a compiler makes fewer kernels: benchmarks/NOTES.md.
MOST = {
  'dreamerv3': ((11_800, [980, 1_330, 50]), (2_950, [])),
  'dreamerv2': ((8_400, [800, 830, 50]), (2_700, [])),
  'dreamerpro': ((9_200, [640, 780, 50]), (2_700, [])),
  'tdmpc': ((6_300, []), (3_970, [125, 460, 145])),  # its plans are loops over iterations
  'denoised_mdp': ((10_400, [990, 1_045]), (2_700, [])),
}


@pytest.mark.parametrize('name', MOST)
def test_what_every_method_asks_of_a_compiler(name):
  dreams = name.startswith('dreamer')
  config = small.run_config(name) if dreams else common.make(SUITE, name, 'tiny', 'reach')
  with compiled.as_if_on(H100):
    there = programs(Subject(config), [], H100.memory)
    summaries = [
      stablehlo.summary(there[key]().lower('cuda', 'tpu').compiler_ir('stablehlo'))
      for key in ('train_step', 'act_1')
    ]
  for found, (operations, loops) in zip(summaries, MOST[name]):
    assert found['operations'] <= MORE * operations and len(found['loops']) == len(loops), found
    assert all(body <= MORE * most for body, most in zip(found['loops'], loops)), found
    assert not found['f64'] and not found['callbacks'], found


def test_whole_runs_ask_for_nothing_that_accelerators_lack():
  config = common.make(common.suite('catch'), 'tests.linear:METHOD', 'tiny', 'catch')
  with compiled.as_if_on(H100):
    there = programs(Subject(config), [], H100.memory)
    module = there['agents_10']().lower('cuda', 'tpu').compiler_ir('stablehlo')
    of_its_own = programs(Subject(common.make(SUITE, 'tdmpc', 'tiny', 'reach')), [], H100.memory)
  found = stablehlo.summary(module)
  assert len(found['loops']) >= 2 and not found['f64'] and not found['callbacks'], found
  assert '<1x10x' in str(module) and 'agents_10' not in of_its_own  # its replay is the host's


def test_figures_are_held_against_those_of_before():
  one = {'compiles': True, 'kernels': 100, 'bytes': 10**9, 'temp_bytes': 10**6}
  record = lambda **changes: {'programs': {'act_1': one | changes}}
  assert compiled.worse(record(), record(kernels=105, bytes=1, temp_bytes=1_050_000)) == []
  assert compiled.worse(record(), record(kernels=106)) == ['act_1: kernels 100 before, 106 now']
  assert compiled.worse(record(temp_bytes=32), record(temp_bytes=2_000)) == []
  assert len(compiled.worse(record(), record(bytes=2 * 10**9, temp_bytes=2 * 10**6))) == 2
  broken = {'programs': {'act_1': {'compiles': False, 'error': 'no room'}}}
  assert 'no room' in compiled.worse(record(), broken)[0] and compiled.worse(broken, broken) == []
  assert compiled.worse(record(), {'programs': {}})


WRITES = """
import os, pathlib, time
folder = pathlib.Path(os.environ['XLA_FLAGS'].split('dump_to=')[1].split()[0])
begin = folder / 'module_1.jit_step.after_optimizations'
pathlib.Path(f'{begin}-buffer-assignment.txt').write_text('''
allocation 1: size 100, parameter 0, shape |f32[25]| at ShapeIndex {}:
allocation 2: size 40, preallocated-temp:
 value: <1> (size=40,offset=0): f32[10]
allocation 3: size 7, color 1, preallocated-temp:''')
pathlib.Path(f'{begin}-memory-usage-report.txt').write_text('Memory\\nTotal bytes: 140 (140B)\\n')
(folder / 'module_0.jit_step.cpu_after_optimizations.txt').write_text('another compiler')
pathlib.Path(f'{begin}.txt').write_text('HloModule')
time.sleep(600)
"""


def test_what_a_compiler_has_written_is_read_when_patience_ends():
  plan = patience.outcome(exec, WRITES, seconds=0.0)
  assert (plan.text, plan.temp_bytes, plan.peak_bytes) == ('HloModule', 40, 140)
  assert patience.outcome(str.upper, 'done') == 'DONE'
  assert patience.outcome(os._exit, 3) is None


def test_the_command_says_what_is_missing(tmp_path):
  file = tmp_path / 'figures.json'
  sizes = ['--suite=catch', '--preset=tiny', '--method=tests.shooting:METHOD']
  asked = ['--what=compiled', '--target=v6e', '--programs=act_1,replay_read', *sizes]
  result = commands.run('benchmark', *asked, f'--output={file}')
  assert result.returncode == 0, result.stderr
  record = json.loads(file.read_text())
  assert (record['target'], record['suite']) == ('v6e', 'catch')
  assert record['preset'] == 'tiny' and record['versions']['jax'] == jax.__version__
  if 'not_compiled' not in record:  # its compiler is here
    return
  assert 'aot-tpu' in result.stdout and 'operations' in result.stdout
  assert record['programs']['act_1']['platforms']['rocm']['operations'] > 10
  result = commands.run('benchmark', f'--again={file}')
  assert result.returncode == 2 and result.stderr.count('\n') == 1 and 'aot-tpu' in result.stderr


def test_an_unknown_program_is_named(monkeypatch):
  monkeypatch.setattr(compiled, 'missing', lambda name: 'its compiler')
  with pytest.raises(UserError, match='act_2.*train_step, act_1, act_100, report'):
    compiled.measure(small.run_config(), 'h100', names=['act_2'])
