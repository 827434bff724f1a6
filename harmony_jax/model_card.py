"""The model card of a published agent, written from its manifest: see publishing.py."""

from typing import Any

import numpy as np

from harmony_jax import publishing


def card(about: dict[str, Any]) -> str:
  """Return the model card of a manifest, as Markdown with the front matter that hubs read."""
  run, result, again = about['run']['config'], about['evaluation'], about['verify']
  machine = result['machine']
  where = ' '.join(dict.fromkeys([run['suite'], run['task']]))
  hashes = '\n'.join(f'| `{name}` | `{value}` |' for name, value in about['sha256'].items())
  versions = ', '.join(f'{k} {v}' for k, v in machine['versions'].items())
  sizes = sum(np.prod(_shape(text), dtype=int) for text in about['arrays'].values())
  rule = run.get('weighting', {}).get('rule')
  kind = f'{run["method"]} whose losses are weighed by `{rule}`' if rule else run['method']
  return f"""---
license: {about['licence'].lower()}
library_name: harmony-jax
tags: [reinforcement-learning, world-model, {run['method']}, {run['suite']}, jax]
---

# {about['name']}

{kind}, trained on {where} for {about['step']:,} steps: preset
`{run['preset']}` with the settings in `{publishing.MANIFEST}`, seed {run['seed']}. It has
{sizes:,} numbers, without optimisers.

| player | mean score of {result['episodes']:,} episodes |
| --- | --- |
| this agent | {result['mean']:.3f} (standard deviation {result['std']:.3f}) |
| random | {result['random_mean']:.3f} |

Every score is in `{publishing.SCORES}`. It is one run of one seed, and says nothing of others.
Protocol: {result['protocol']}.

## Use

```python
from harmony_jax.trained import Agent

agent = Agent.load('{about['name']}')  # or the path of this folder
action, state = agent.policy(observation)
```

## Verify

`python -m experiments.verify {about['name']}` plays {again['episodes']:,} other episodes.
Their mean must lie in [{again['low']:.4f}, {again['high']:.4f}], where a new mean of the same agent
lies with a probability of {again['level']:.1%} ({again['how']}, from
the published scores). A file with another hash is refused.

| file | SHA-256 |
| --- | --- |
{hashes}

## Made

- commit {about['trained']['commit']}, command `{about['trained']['command']}`
- evaluated on {machine['processor']} ({machine['device_kind']}) with Python {machine['python']},
  {versions}
- licence of the weights: {about['licence']}
"""


def _shape(text):
  inner = text.partition('[')[2].rstrip(']')
  return [int(each) for each in inner.split(',')] if inner else []
