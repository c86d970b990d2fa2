import { expect, test } from '@jest/globals';
import { weightsAmong } from './folder.js';

test('the weights of a dtype are the graph and the files beside it, and no path of a list leaves the folder', () => {
  const weights = [
    'onnx/model.onnx',
    'onnx/model.onnx_data',
    'onnx/model.onnx_data_1',
    'onnx/model.onnx.data',
  ];
  const others = [
    'onnx/model_quantized.onnx',
    'onnx/model.onnx_/../../../evil',
    'onnx/model.onnx_data/../../evil',
    'onnx/model.onnx_..\\evil',
    'model.onnx',
  ];
  expect(weightsAmong([...weights, ...others], 'fp32')).toEqual(weights);
  expect(weightsAmong(others, 'q8')).toEqual(['onnx/model_quantized.onnx']);
});
