"""Pre-training: sequences of a corpus, masks, ALBERT's two objectives, LAMB, and the loop.

The sources are section 3 of the paper (https://arxiv.org/abs/1909.11942) and, in
https://github.com/google-research/albert, create_pretraining_data.py, run_pretraining.py,
optimization.py and lamb_optimizer.py. Where their data preparation loses or leaks something, it is
done right here, and the module says so.
"""
