"""TensorBoard's files, read without TensorBoard."""

from tensorboardX.proto import event_pb2


def read(folder):
  """Return all events of a folder, file by file."""
  events = []
  for path in sorted(folder.glob('events*')):
    data = path.read_bytes()
    while data:  # a record: 8 bytes of length, 4 of checksum, the event, 4 of checksum
      size = int.from_bytes(data[:8], 'little')
      events.append(event_pb2.Event.FromString(data[12 : 12 + size]))
      data = data[16 + size :]
  return events


def shown(folder):
  """Return {tag: [(step, value)]} of what the viewer shows: a start drops what comes again."""
  found = {}
  for event in read(folder):
    if event.HasField('session_log'):
      found = {tag: [at for at in ats if at[0] < event.step] for tag, ats in found.items()}
    for value in event.summary.value:
      kind = value.WhichOneof('value') or 'metadata'
      found.setdefault(value.tag, []).append((event.step, getattr(value, kind)))
  return found
