"""Searches MesoInception4's settings with KerasTuner: python examples/tune_meso.py FACES OUTPUT [KEY=VALUE ...]"""

import sys

import keras_tuner

import tfdfd

faces, output, *settings = sys.argv[1:]
hypermodel = tfdfd.tuning.HyperModel("meso_inception4", data=faces, settings=settings)
objective = keras_tuner.Objective("val_auc", "max")
tuner = keras_tuner.Hyperband(hypermodel, objective, max_epochs=3, directory=output, project_name="meso", seed=1)
tuner.search(verbose=0)
print(hypermodel.recipe(tuner.get_best_hyperparameters()[0]))
