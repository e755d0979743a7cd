/* Name what is in the images of an .npy file, with C that emx-onnx-cgen made from the model.
 *
 * classify IMAGES.npy [--probabilities FILE]
 *   IMAGES.npy: float32 (n, 784) in 0...1, little-endian, as NumPy writes it
 *   FILE: gets raw float32 (n, 10)
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PIXELS = 784, CLASSES = 10 };

static const char *const NAMES[CLASSES] = {
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
};

/* In the generated file. */
void fashion_mlp(int N, const float image[restrict N][PIXELS],
                 float probabilities[restrict N][CLASSES]);

static void *fail(const char *what, const char *path)
{
    fprintf(stderr, "classify: %s: %s\n", path, what);
    exit(1);
}

/* NumPy's format: 8 bytes, the header's length as uint16, the header, then the array. */
static float *read_npy(const char *path, int *count)
{
    unsigned char start[10];
    char header[65536] = "";
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return fail("cannot be opened", path);
    if (fread(start, 1, sizeof start, file) != sizeof start || memcmp(start, "\x93NUMPY", 6) != 0)
        return fail("expected an .npy file", path);
    size_t length = start[8] + 256u * start[9];
    if (fread(header, 1, length, file) != length || strstr(header, "'<f4'") == NULL)
        return fail("expected float32 values", path);
    fseek(file, 0, SEEK_END);
    size_t bytes = (size_t)ftell(file) - sizeof start - length;
    float *images = malloc(bytes);
    fseek(file, (long)(sizeof start + length), SEEK_SET);
    if (images == NULL || fread(images, 1, bytes, file) != bytes)
        return fail("cannot be read whole", path);
    fclose(file);
    *count = (int)(bytes / (PIXELS * sizeof(float)));
    return images;
}

int main(int argc, char **argv)
{
    if (argc != 2 && !(argc == 4 && strcmp(argv[2], "--probabilities") == 0)) {
        fprintf(stderr, "usage: %s IMAGES.npy [--probabilities FILE]\n", argv[0]);
        return 2;
    }
    int count;
    float *images = read_npy(argv[1], &count);
    float(*probabilities)[CLASSES] = malloc((size_t)count * sizeof *probabilities);
    if (probabilities == NULL)
        fail("out of memory", argv[1]);

    clock_t start = clock();
    fashion_mlp(count, (const float(*)[PIXELS])images, probabilities);
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;

    for (int number = 0; number < count && number < 5; number++) {
        int best = 0;
        for (int class = 1; class < CLASSES; class++)
            if (probabilities[number][class] > probabilities[number][best])
                best = class;
        printf("image %d: %s, %.3f\n", number, NAMES[best], probabilities[number][best]);
    }
    printf("C99 gcc %d.%d.%d: %d images in %.4f s\n", __GNUC__, __GNUC_MINOR__,
           __GNUC_PATCHLEVEL__, count, seconds);
    if (argc == 4) {
        FILE *file = fopen(argv[3], "wb");
        if (file == NULL
            || fwrite(probabilities, sizeof *probabilities, (size_t)count, file) != (size_t)count
            || fclose(file) != 0)
            fail("cannot be written", argv[3]);
    }
    free(probabilities);
    free(images);
    return 0;
}
