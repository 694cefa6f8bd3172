// A few channels: each thread gathers what one pixel of the answer is made of, all places after each other, as filters
// have it.

#define PIXELS (BLOCKS * 64)
#define DEPTH_EIGHTHS ((9 * CHANNELS + 15) / 16 * 2)
#define FILTER_PLANE (COLUMNS * 16)  // bytes: eight numbers of all columns

__device__ __forceinline__ void gather_filters(unsigned char* to, const value* weight, int column, int columns) {
    for (int index = threadIdx.x; index < DEPTH_EIGHTHS * 8 * COLUMNS; index += THREADS) {
        const int row = index / 8 % COLUMNS, number = index / 8 / COLUMNS * 8 + index % 8;
        const bool there = number < 9 * CHANNELS && column + row < columns;
        reinterpret_cast<value*>(to)[index] = there ? weight[(column + row) * 9 * CHANNELS + number] : value(0);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2) hopper_convolution(
    const value* x, const value* weight, const value* bias, const value* more, const value* residual,
    const float* scales, value* out, int tiles, int height, int width, int channels, int columns, int part_channels
) {
    const word filters = shared_address(shared), pixels = filters + DEPTH_EIGHTHS * FILTER_PLANE;
    word* gathered = reinterpret_cast<word*>(shared + DEPTH_EIGHTHS * FILTER_PLANE);
    float* terms = reinterpret_cast<float*>(shared + DEPTH_EIGHTHS * (FILTER_PLANE + PIXELS * 16));
    const int column = blockIdx.y * COLUMNS;
    const int group = same_for_warp(threadIdx.x / 128);
    gather_filters(shared, weight, column, columns);
    load_terms(terms, bias, more, scales, column, columns);
    for (int number = blockIdx.x; number < tiles; number += gridDim.x) {
        const Tile tile = tile_of(number, height, width);
        __syncthreads();  // all have read the pixels before
        for (int pixel = threadIdx.x; pixel < PIXELS; pixel += THREADS) {
            const int block = pixel / 64;
            const int top = tile.top + block / BLOCKS_ACROSS * 8 + pixel / 8 % 8 - 1;
            const int left = tile.left + block % BLOCKS_ACROSS * 8 + pixel % 8 - 1;
            value found[DEPTH_EIGHTHS * 8];
#pragma unroll
            for (int place = 0; place < 9; ++place) {
                const int y = top + place / 3, at = left + place % 3;
                const bool there = y >= 0 && y < height && at >= 0 && at < width;
                const long long from = (static_cast<long long>(tile.sample * height + y) * width + at) * CHANNELS;
#pragma unroll
                for (int channel = 0; channel < CHANNELS; ++channel)
                    found[place * CHANNELS + channel] = there ? x[from + channel] : value(0);
            }
#pragma unroll
            for (int index = 9 * CHANNELS; index < DEPTH_EIGHTHS * 8; ++index) found[index] = 0;
#pragma unroll
            for (int eighth = 0; eighth < DEPTH_EIGHTHS; ++eighth) {
                word words[4];
#pragma unroll
                for (int two = 0; two < 4; ++two) {
                    const int index = eighth * 8 + two * 2;
                    words[two] = found[index] | static_cast<word>(found[index + 1]) << 16;
                }
                *reinterpret_cast<uint4*>(gathered + (eighth * PIXELS + pixel) * 4) =
                    make_uint4(words[0], words[1], words[2], words[3]);
            }
        }
        show_to_products();
        __syncthreads();
        Sums sums;
        begin_products();
#pragma unroll
        for (int part = 0; part < DEPTH_EIGHTHS / 2; ++part) {
#pragma unroll
            for (int block = 0; block < GROUP_BLOCKS; ++block) {
                const int first = (group / GROUPS_OF_COLUMNS * GROUP_BLOCKS + block) * 64;
                const word columns_at = filters + group % GROUPS_OF_COLUMNS * GROUP_COLUMNS * 16;
                multiply(
                    sums[block],
                    matrix_at(pixels + (part * 2 * PIXELS + first) * 16, PIXELS * 16, 128),
                    matrix_at(columns_at + part * 2 * FILTER_PLANE, FILTER_PLANE, 128),
                    part > 0
                );
            }
        }
        commit_products();
        wait_for_products<0>();
        finish(sums, terms, residual, out, tile, height, width, column, columns, group);
    }
}
