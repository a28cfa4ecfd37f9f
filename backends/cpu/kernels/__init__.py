"""The kernels, one family a file: its record, its packing, its generator.

What every kernel relies on (the emitter provides it):

* Activations are u8. An s8 tensor is stored with 128 added (zero points, bounds and tables move
  with it), so no kernel has a signed twin.
* Layout is NHWC. A pixel has its channels padded to a multiple of 16; a buffer may be a channel
  range of a wider one (concatenation), and has a halo where a consumer pads. Halos hold the zero
  point, padding channels hold anything: their weights are zero.
* Buffers are 64-byte aligned with at least 64 readable bytes after their end.
* Records live as long as the program. Each op of a program is followed by `sync.BARRIER`, or shares
  its barrier with neighbours that use other slots and touch none of its memory.
"""
