/* Name what is in the images of an .npy file, with C that emx-onnx-cgen generated from the model.
 *
 * classify LABELS.json IMAGES.npy [--probabilities FILE]
 *   LABELS.json: the model's models/labels.json
 *   IMAGES.npy: float32 (n, PIXELS) in 0...1, little-endian, as NumPy writes it
 *   FILE: gets raw float32 (n, CLASSES)
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifndef PIXELS /* of the model; for another, compile with -DPIXELS=... -DCLASSES=... */
enum { PIXELS = 784, CLASSES = 10 };
#endif

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
    unsigned char start[10] = {0};
    char header[65536] = "";
    int columns = 0, end = 0;
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return fail("cannot be opened", path);
    fread(start, 1, sizeof start, file);
    fread(header, 1, start[8] + 256u * start[9], file);
    sscanf(header, "{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d), }%n", count,
           &columns, &end);
    if (memcmp(start, "\x93NUMPY\x01", 7) != 0 || end == 0 || columns != PIXELS || *count < 1)
        return fail("expected an .npy file of float32 (n, pixels) in C order", path);
    size_t values = (size_t)*count * PIXELS;
    float *images = malloc(values * sizeof *images);
    if (images == NULL || fread(images, sizeof *images, values, file) != values)
        return fail("cannot be read whole", path);
    fclose(file);
    return images;
}

/* Read the first list of "class_names". (For names with quotes or escapes, take a JSON library.) */
static void read_names(const char *path, char names[CLASSES][64])
{
    char json[65536] = "", after = ',';
    int count = 0, used;
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        fail("cannot be opened", path);
    fread(json, 1, sizeof json - 1, file);
    fclose(file);
    char *at = strstr(json, "\"class_names\":");
    at = at == NULL ? NULL : strchr(at, '[');
    for (; at != NULL && after == ',' && count < CLASSES; count++, at += used)
        if (sscanf(at + 1, " \"%63[^\"]\" %c%n", names[count], &after, &used) != 2)
            break;
    if (count != CLASSES || after != ']')
        fail("expected a name for each class", path);
}

int main(int argc, char **argv)
{
    static char names[CLASSES][64];
    if (argc != 3 && !(argc == 5 && strcmp(argv[3], "--probabilities") == 0)) {
        fprintf(stderr, "usage: %s LABELS.json IMAGES.npy [--probabilities FILE]\n", argv[0]);
        return 2;
    }
    int count;
    read_names(argv[1], names);
    float *images = read_npy(argv[2], &count);
    float(*probabilities)[CLASSES] = malloc((size_t)count * sizeof *probabilities);
    if (probabilities == NULL)
        fail("out of memory", argv[2]);

    clock_t start = clock();
    fashion_mlp(count, (const float(*)[PIXELS])images, probabilities);
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;

    for (int number = 0; number < count && number < 5; number++) {
        int best = 0;
        for (int class = 1; class < CLASSES; class++)
            if (probabilities[number][class] > probabilities[number][best])
                best = class;
        printf("image %d: %s, %.3f\n", number, names[best], probabilities[number][best]);
    }
    printf("C99 gcc %d.%d.%d: %d images in %.4f s\n", __GNUC__, __GNUC_MINOR__,
           __GNUC_PATCHLEVEL__, count, seconds);
    if (argc == 5) {
        FILE *file = fopen(argv[4], "wb");
        if (file == NULL
            || fwrite(probabilities, sizeof *probabilities, (size_t)count, file) != (size_t)count
            || fclose(file) != 0)
            fail("cannot be written", argv[4]);
    }
    free(probabilities);
    free(images);
    return 0;
}
