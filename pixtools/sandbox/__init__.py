"""Runs code that reads files of strangers in a child process that cannot do harm.

The child process has no secret in its environment. After its imports it gives up what decoders do not need: it cannot
open files, use the network, start programs or look into other processes. `process.py` is the side of the parent, and
`child.py` and `confinement.py` are the side of the child.

The parent may send pickled objects and open files. The child may send only bytes and JSON, because unpickling runs
code, and a hostile file may control the child.
"""
