"""Object discovery as the field reports it: are the segments of a picture its objects, measured at pixels, beside other
ways to cluster the same features. `python -m training.evaluation.object_discovery --model FOLDER`"""
