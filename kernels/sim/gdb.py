# kernels/sim/gdb.py -- see the CUDA threads of a simulated block in gdb:  (gdb) source kernels/sim/gdb.py
#
#   sim-threads              every CUDA thread of the current block: number, threadIdx, what it does, where it waits
#   sim-thread N [command]   its backtrace, or any gdb command in its place (a thread that waits)
#
# Breakpoints see the running CUDA thread:  break mask_mix.cu:60 if avid::kernels::sim::threadIdx.x == 5
# Use AVID_SIM_THREADS=1, and a Debug build for kernels at -O0.
import gdb

STATUS = ["not started", "running", "at __syncthreads", "in a collective", "finished"]
# What avid_sim_switch pushes, from the saved stack pointer up (x86-64).
SAVED = ["r15", "r14", "r13", "r12", "rbx", "rbp", "rip"]


def engine():
    try:
        pointer = gdb.parse_and_eval("avid::kernels::simulator::engine_of_this_thread")
    except gdb.error:
        raise gdb.GdbError("no types of the simulator here: configure with -DCMAKE_BUILD_TYPE=Debug") from None
    if int(pointer) == 0:
        raise gdb.GdbError("no block has run on this OS thread")
    return pointer.dereference()


def threads():
    data = engine()["threads_"]["_M_impl"]
    count = int(data["_M_finish"] - data["_M_start"])
    return [(data["_M_start"] + i).dereference() for i in range(count)]


class SimThreads(gdb.Command):
    """List the CUDA threads of the block that this OS thread runs."""

    def __init__(self):
        super().__init__("sim-threads", gdb.COMMAND_STACK)

    def invoke(self, argument, from_tty):
        for t in threads():
            index = t["index"]
            status = int(t["status"])
            where = ""
            if status in (2, 3):
                site = t["site"]["_M_impl"]
                where = "%s:%d" % (site["_M_file_name"].string().split("/")[-1], int(site["_M_line"]))
            print("%4d (%d,%d,%d) %s %s" % (int(t["number"]), int(index["x"]), int(index["y"]), int(index["z"]), STATUS[status], where))


class SimThread(gdb.Command):
    """sim-thread N [command]: backtrace (or another command) in a waiting CUDA thread."""

    def __init__(self):
        super().__init__("sim-thread", gdb.COMMAND_STACK)

    def invoke(self, argument, from_tty):
        words = argument.split(None, 1)
        if not words:
            raise gdb.GdbError("sim-thread: which? sim-threads lists them")
        t = threads()[int(words[0])]
        if int(t["status"]) not in (2, 3):
            raise gdb.GdbError("thread %s is %s; only waiting threads have a saved place" % (words[0], STATUS[int(t["status"])]))
        stack = int(t["fiber"]["stack_pointer"])
        word = gdb.lookup_type("unsigned long").pointer()
        registers = {name: int(gdb.Value(stack + 8 * i).cast(word).dereference()) for i, name in enumerate(SAVED)}
        registers["rsp"] = stack + 8 * len(SAVED)
        gdb.execute("frame 0", to_string=True)
        before = {name: int(gdb.parse_and_eval("$" + name)) & (2**64 - 1) for name in registers}
        # rsp first: gdb recomputes the frame at every write.
        order = ["rsp"] + [name for name in registers if name != "rsp"]
        try:
            for name in order:
                gdb.execute("set $%s=%d" % (name, registers[name]))
            gdb.execute(words[1] if len(words) > 1 else "backtrace 8")
        finally:
            for name in order:
                gdb.execute("set $%s=%d" % (name, before[name]))


SimThreads()
SimThread()
