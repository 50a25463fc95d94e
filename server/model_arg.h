/* The value of --model: a path, or NAME=PATH. Thread: main. */
#ifndef QN_SERVER_MODEL_ARG_H
#define QN_SERVER_MODEL_ARG_H

#define QN_MODEL_NAME_MAX 64

/* Splits it: the name goes into name ("" when there is none), the path is returned and points into arg. It is
 * NAME=PATH when what stands before the first '=' matches [A-Za-z0-9._-]{1,64}, and nothing of the whole
 * argument's name exists: a path may have a '=' in it. */
const char *qn_model_arg_split(const char *arg, char name[QN_MODEL_NAME_MAX + 1]);

#endif
