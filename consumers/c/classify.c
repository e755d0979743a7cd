/* Name what is in the images of an .npy file, with C that emx-onnx-cgen generated from the model.
 *
 * classify LABELS.json IMAGES.npy [--output NAME --save FILE]
 *   LABELS.json: the model's models/labels.json
 *   IMAGES.npy: uint8 (n, PIXELS), as NumPy writes it
 *   NAME: logits, class or probabilities
 *   FILE: gets that output, raw: float32 (n, CLASSES), or int64 (n)
 */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifndef PIXELS /* of the model; for another, compile with -DPIXELS=... -DCLASSES=... */
enum { PIXELS = 784, CLASSES = 10 };
#endif

/* In the generated file: one image at a time (emx-onnx-cgen's --input-dim N=1). */
void fashion_mlp(const uint8_t image[restrict 1][PIXELS], float logits[restrict 1][CLASSES],
                 int64_t class[restrict 1], float probabilities[restrict 1][CLASSES]);

static void *fail(const char *what, const char *path)
{
    fprintf(stderr, "classify: %s: %s\n", path, what);
    exit(1);
}

/* NumPy's format: 8 bytes, the header's length as uint16, the header, then the array. */
static uint8_t *read_npy(const char *path, int *count)
{
    unsigned char start[10] = {0};
    char header[65536] = "";
    int columns = 0, end = 0;
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return fail("cannot be opened", path);
    fread(start, 1, sizeof start, file);
    fread(header, 1, start[8] + 256u * start[9], file);
    sscanf(header, "{'descr': '|u1', 'fortran_order': False, 'shape': (%d, %d), }%n", count,
           &columns, &end);
    if (memcmp(start, "\x93NUMPY\x01", 7) != 0 || end == 0 || columns != PIXELS || *count < 1)
        return fail("expected an .npy file of uint8 (n, pixels) in C order", path);
    size_t values = (size_t)*count * PIXELS;
    uint8_t *images = malloc(values * sizeof *images);
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
    const char *const outputs[] = {"logits", "class", "probabilities"};
    int saved = 0, count;
    while (argc == 7 && saved < 3 && strcmp(argv[4], outputs[saved]) != 0)
        saved++;
    if ((argc != 3 && argc != 7) || saved == 3) {
        fprintf(stderr, "usage: %s LABELS.json IMAGES.npy [--output NAME --save FILE]\n", argv[0]);
        return 2;
    }
    read_names(argv[1], names);
    uint8_t *images = read_npy(argv[2], &count);
    float(*logits)[CLASSES] = malloc((size_t)count * sizeof *logits);
    float(*probabilities)[CLASSES] = malloc((size_t)count * sizeof *probabilities);
    int64_t *classes = malloc((size_t)count * sizeof *classes);
    if (logits == NULL || probabilities == NULL || classes == NULL)
        fail("out of memory", argv[2]);

    clock_t start = clock();
    for (int i = 0; i < count; i++)
        fashion_mlp((const uint8_t(*)[PIXELS])(images + (size_t)i * PIXELS), &logits[i],
                    &classes[i], &probabilities[i]);
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;

    for (int i = 0; i < count && i < 5; i++)
        printf("image %d: %s, %.3f\n", i, names[classes[i]], probabilities[i][classes[i]]);
    printf("C99 gcc %d.%d.%d: %d images in %.4f s\n", __GNUC__, __GNUC_MINOR__,
           __GNUC_PATCHLEVEL__, count, seconds);
    if (argc == 7) {
        const void *const answers[] = {logits, classes, probabilities};
        const size_t sizes[] = {sizeof *logits, sizeof *classes, sizeof *probabilities};
        FILE *file = fopen(argv[6], "wb");
        if (file == NULL
            || fwrite(answers[saved], sizes[saved], (size_t)count, file) != (size_t)count
            || fclose(file) != 0)
            fail("cannot be written", argv[6]);
    }
    free(classes);
    free(probabilities);
    free(logits);
    free(images);
    return 0;
}
