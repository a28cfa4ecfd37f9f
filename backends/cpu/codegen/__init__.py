"""From text and LLVM IR to native code: instruction tables, emitters, the compiler."""
