"""The kernel that writes what memsets write, as PTX: it needs neither Triton nor a compiler but the driver's own."""

from sdstream.diffusion.graph_editing.plan import STORES

_HEAD = """\
.version 6.0
.target sm_50
.address_size 64
"""
# All parameters are of one type, so that whoever launches it needs to know of one only.
_ENTRY = """
.visible .entry NAME(
    .param .u64 destination,
    .param .u64 pitch,
    .param .u64 width,
    .param .u64 height,
    .param .u64 pattern)
{
    .reg .pred %past;
    .reg .b32 %block, %blocks, %thread, %threads, %line, %lines, %word;
    .reg .b64 %base, %pitch, %width, %height, %wide, %first, %step, %row, %rows, %start, %column, %place;

    ld.param.u64 %base, [destination];
    ld.param.u64 %pitch, [pitch];
    ld.param.u64 %width, [width];
    ld.param.u64 %height, [height];
    ld.param.u64 %wide, [pattern];
    cvta.to.global.u64 %base, %base;
    cvt.u32.u64 %word, %wide;
    mov.u32 %block, %ctaid.x;
    mov.u32 %blocks, %nctaid.x;
    mov.u32 %thread, %tid.x;
    mov.u32 %threads, %ntid.x;
    mov.u32 %line, %ctaid.y;
    mov.u32 %lines, %nctaid.y;
    cvt.u64.u32 %column, %thread;
    mul.wide.u32 %first, %block, %threads;
    add.u64 %first, %first, %column;
    mul.wide.u32 %step, %blocks, %threads;
    cvt.u64.u32 %row, %line;
    cvt.u64.u32 %rows, %lines;
each_row:
    setp.ge.u64 %past, %row, %height;
    @%past bra done;
    mad.lo.u64 %start, %row, %pitch, %base;
    mov.u64 %column, %first;
each_column:
    setp.ge.u64 %past, %column, %width;
    @%past bra next_row;
    mad.lo.u64 %place, %column, BYTES, %start;
    STORE;
    add.u64 %column, %column, %step;
    bra each_column;
next_row:
    add.u64 %row, %row, %rows;
    bra each_row;
done:
    ret;
}
"""
_STORES = {  # of a register that is wider the low bytes are stored
    16: "st.global.v4.u32 [%place], {%word, %word, %word, %word}",
    4: "st.global.u32 [%place], %word",
    2: "st.global.u16 [%place], %word",
    1: "st.global.u8 [%place], %word",
}


def name_of(store: int) -> str:
    """The kernel whose threads write so many bytes at once."""
    return f"sdstream_fill_{store}"


def _entry(store: int) -> str:
    return _ENTRY.replace("NAME", name_of(store)).replace("BYTES", str(store)).replace("STORE", _STORES[store])


PTX = _HEAD + "".join(map(_entry, STORES))

__all__ = ["PTX", "name_of"]
