// What a block of threads works on, and its way into shared memory. `source.py` says what is defined before.
//
// A block answers a tile of pixels in so many columns. The pixels that it sees lie in shared memory once for all places
// of the filter, line after line, 128 bytes each: 64 channels, or 128 of eight bits. Eighths of a pixel are swizzled by
// its number, so that eight pixels of a line lie in all banks, wherever they begin: what tensor cores read at a time.
// (Eight channels of neighbouring pixels next to each other would need no swizzling, and took twice as long where they
// begin in between.) Each group of four warps multiplies on its own.

#define TILE_HEIGHT (8 * BLOCKS_DOWN)
#define TILE_WIDTH (8 * BLOCKS_ACROSS)
#define BLOCKS (BLOCKS_DOWN * BLOCKS_ACROSS)
#define GROUP_BLOCKS (BLOCKS / GROUPS_OF_BLOCKS)
#define SEEN_HEIGHT (TILE_HEIGHT + 2)
#define SEEN_WIDTH (TILE_WIDTH + 2)
#define SEEN (SEEN_HEIGHT * SEEN_WIDTH)
#define STEP_CHANNELS (EIGHT_BIT ? 128 : 64)
#define PICTURE (SEEN * 128)         // bytes: the channels of a step
#define FILTER (COLUMNS * 128)       // bytes: these of one place

typedef float Sums[GROUP_BLOCKS][GROUP_COLUMNS / 2];

struct Tile {
    int sample, top, left;
};

__device__ __forceinline__ Tile tile_of(int number, int height, int width) {
    const int across = (width + TILE_WIDTH - 1) / TILE_WIDTH;
    const int down = (height + TILE_HEIGHT - 1) / TILE_HEIGHT;
    return {number / (across * down), number / across % down * TILE_HEIGHT, number % across * TILE_WIDTH};
}

// Products of a step's channels, or of so many of its four parts, at one place of the filter, `shift` pixels from the
// first one seen.
template <int parts = 4>
__device__ __forceinline__ void multiply_place(
    Sums& sums, word picture, word filter, int shift, int group, bool begins
) {
    const int first_block = group / GROUPS_OF_COLUMNS * GROUP_BLOCKS;
    const word columns = filter + group % GROUPS_OF_COLUMNS * GROUP_COLUMNS * 128;
#pragma unroll
    for (int part = 0; part < parts; ++part) {
#pragma unroll
        for (int block = 0; block < GROUP_BLOCKS; ++block) {
            const int number = first_block + block;
            const int start = shift + number / BLOCKS_ACROSS * 8 * SEEN_WIDTH + number % BLOCKS_ACROSS * 8;
            multiply(
                sums[block],
                swizzled_at(picture + start * 128 + part * 32, SEEN_WIDTH * 128),
                swizzled_at(columns + part * 32, 1024),
                !(begins && part == 0)
            );
        }
    }
}
